# Shoal for machines without a GPU. From the root of the repository:
#
#   podman build -f docker/cpu.Dockerfile -t shoal:0.1.0 .
#
# BASE is a Debian 12; name it by digest where builds must repeat exactly. The
# image runs as a user and with a read-only root: all it writes is below its
# working folder, /shoal, and /tmp.
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends g++ cmake ninja-build ccache mold pkg-config \
      libopenmpi-dev libzmq3-dev cppzmq-dev libprotobuf-dev \
      protobuf-compiler libgtest-dev libgmock-dev libbenchmark-dev \
      libcli11-dev nlohmann-json3-dev libyaml-cpp-dev libspdlog-dev \
      libcpp-httplib-dev libssl-dev libcurl4-openssl-dev libpugixml-dev \
      libzstd-dev zlib1g-dev libxxhash-dev librocksdb-dev
COPY . /src
WORKDIR /src
RUN cmake --preset release && ninja -C build/release shoal shoal_mpi && \
    strip --strip-debug build/release/shoal build/release/libshoal_mpi.so

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
COPY --from=build /src/build/release/shoal \
  /src/build/release/libshoal_mpi.so /usr/local/bin/
USER 10001:10001
WORKDIR /shoal
CMD ["shoal", "--help"]
