# Shoal for machines with NVIDIA GPUs. From the root of the repository:
#
#   podman build -f docker/cuda.Dockerfile -t shoal-cuda:0.1.0 .
#
# BASE is a Debian 12, for which NVIDIA has no images of its own: compiler and
# libraries are those of its packages on PyPI. The driver comes from the node
# (NVIDIA's container toolkit). For the rest see cpu.Dockerfile.
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS toolkit
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends python3-pip ca-certificates
# Where CMake looks for a toolkit, with the names that linkers want.
RUN python3 -m pip install --no-deps --no-cache-dir --target /opt/nvidia \
      nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 \
      nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
      nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.2.11 \
      nvidia-nccl-cu13==2.32.3 && \
    mv /opt/nvidia/nvidia/cu13 /usr/local/cuda && \
    cp -r /opt/nvidia/nvidia/nccl/. /usr/local/cuda/ && \
    rm -rf /opt/nvidia && cd /usr/local/cuda && ln -s lib lib64 && \
    cd lib && for name in cublasLt cudart; do \
      ln -s "lib$name.so.13" "lib$name.so"; done && \
    ln -s libnccl.so.2 libnccl.so

FROM toolkit AS build
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends g++ cmake ninja-build ccache mold pkg-config \
      libopenmpi-dev libzmq3-dev cppzmq-dev libprotobuf-dev \
      protobuf-compiler libgtest-dev libgmock-dev libbenchmark-dev \
      libcli11-dev nlohmann-json3-dev libyaml-cpp-dev libspdlog-dev \
      libcpp-httplib-dev libssl-dev libzstd-dev zlib1g-dev libxxhash-dev
COPY . /src
WORKDIR /src
ARG TARGETS=all
RUN PATH="/usr/local/cuda/bin:$PATH" cmake --preset release \
      -DSHOAL_CUDA=ON && \
    ninja -C build/release ${TARGETS} && mkdir /out && \
    find build/release -maxdepth 1 \( -name shoal -o -name libshoal_mpi.so \
      -o -name libshoal_cuda.so \) -exec cp {} /out/ \; && \
    strip --strip-debug /out/*

FROM ${BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends libcpp-httplib0.11 libssl3 libyaml-cpp0.7 \
      libprotobuf32 libzmq5 libxxhash0 libspdlog1.10 libfmt9 libzstd1 zlib1g \
      openmpi-bin openssh-client openssh-server ca-certificates && \
    rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* && \
    groupadd --gid 10001 shoal && \
    useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash shoal && \
    mkdir -p /shoal /home/shoal/.ssh && chown 10001:10001 /shoal
COPY docker/sshd_config /etc/ssh/shoal_sshd_config
COPY docker/ssh_config /etc/ssh/ssh_config.d/shoal.conf
COPY --from=toolkit /usr/local/cuda/lib/libcublasLt.so.13 \
  /usr/local/cuda/lib/libcudart.so.13 /usr/local/cuda/lib/libnccl.so.2 \
  /usr/local/lib/
RUN ldconfig
COPY --from=build /out/ /usr/local/bin/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /shoal
CMD ["shoal", "--help"]
