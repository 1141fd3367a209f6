# Shoal for machines with NVIDIA GPUs: the same program beside the toolkit's
# libraries. From the root of the repository:
#
#   podman build -f docker/cuda.Dockerfile -t shoal-cuda:0.1.0 .
#
# DEVEL and BASE are images of one version of CUDA on Debian 12. The driver comes
# from the node (NVIDIA's container toolkit).
ARG DEVEL=docker.io/nvidia/cuda:12.9.1-devel-debian12
ARG BASE=docker.io/nvidia/cuda:12.9.1-runtime-debian12

FROM ${DEVEL} AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends g++ cmake ninja-build ccache mold pkg-config \
      libopenmpi-dev libzmq3-dev cppzmq-dev libprotobuf-dev \
      protobuf-compiler libgtest-dev libgmock-dev libbenchmark-dev \
      libcli11-dev nlohmann-json3-dev libyaml-cpp-dev libspdlog-dev \
      libcpp-httplib-dev libssl-dev libcurl4-openssl-dev libpugixml-dev \
      libzstd-dev zlib1g-dev libxxhash-dev librocksdb-dev
COPY . /src
WORKDIR /src
RUN cmake --preset release && ninja -C build/release && mkdir /out && \
    cp build/release/shoal build/release/libshoal_*.so /out/ && \
    strip --strip-debug /out/*

FROM ${BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends libcpp-httplib0.11 libssl3 libcurl4 libpugixml1v5 \
      libyaml-cpp0.7 \
      libprotobuf32 libzmq5 libxxhash0 libspdlog1.10 libfmt9 libzstd1 zlib1g \
      librocksdb7.8 \
      openmpi-bin openssh-client openssh-server ca-certificates && \
    rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* && \
    groupadd --gid 10001 shoal && \
    useradd --uid 10001 --gid 10001 --create-home --shell /bin/bash shoal && \
    mkdir -p /shoal /home/shoal/.ssh && chown 10001:10001 /shoal
COPY docker/sshd_config /etc/ssh/shoal_sshd_config
COPY docker/ssh_config /etc/ssh/ssh_config.d/shoal.conf
COPY --from=build /out/ /usr/local/bin/
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /shoal
CMD ["shoal", "--help"]
