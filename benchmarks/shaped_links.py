#!/usr/bin/env python3
"""Allreduce between four hosts whose links have a set rate.

  python3 benchmarks/shaped_links.py [--program build/release/shoal] [--hosts 4] [--mbit 200]
                                     [--bytes 67108864] [--rounds 5] [--algorithm auto]

Makes network namespaces that a bridge joins, with `tbf` on both ends of every link, and runs
`shoal bench allreduce --transport zmq` across them under mpirun, Open MPI over TCP in turn.
Prints the share of the bound 2(n-1)/n x bytes / rate that each reached; ends with 1 if Shoal's
median is below 0.9, with 77 where namespaces or tbf are not allowed. Leaves nothing behind.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

SUBNET = "10.213.9"


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=False)


class Skip(Exception):
    """Why this machine can't do it."""


def must(*argv):
    done = run(*argv)
    if done.returncode != 0:
        raise Skip(f"'{' '.join(argv)}' failed: {done.stderr.strip()}")


class Hosts:
    """Namespaces with one link each to a bridge in one more."""

    def __init__(self, count, mbit, folder):
        self.names = [f"shoal{os.getpid()}-{i}" for i in range(count)]
        self.switch = f"shoal{os.getpid()}-s"
        self.agent = os.path.join(folder, "agent")
        self.made = []
        self.mbit = mbit
        self.folder = folder

    def make(self):
        self.add(self.switch)
        must("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        must("ip", "-n", self.switch, "link", "set", "br0", "up")
        # Two 64 KiB segments of the kernel's; ten milliseconds of the link's queue.
        shape = ["root", "tbf", "rate", f"{self.mbit}mbit", "burst", "128kb", "latency", "50ms"]
        for i, name in enumerate(self.names):
            port = f"p{i}"
            self.add(name)
            must("ip", "-n", self.switch, "link", "add", port, "type", "veth", "peer", "name",
                 "eth0", "netns", name)
            must("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
            must("ip", "-n", name, "addr", "add", f"{SUBNET}.{i + 1}/24", "dev", "eth0")
            must("ip", "-n", name, "link", "set", "eth0", "up")
            must("ip", "-n", name, "link", "set", "lo", "up")
            must("tc", "-n", name, "qdisc", "add", "dev", "eth0", *shape)
            must("tc", "-n", self.switch, "qdisc", "add", "dev", port, *shape)
        hosts = os.path.join(self.folder, "hosts")
        with open(hosts, "w", encoding="utf-8") as file:
            file.write("127.0.0.1 localhost\n")
            for i, name in enumerate(self.names):
                file.write(f"{SUBNET}.{i + 1} {name}\n")
        with open(self.agent, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nhost=$1\nshift\nexec ip netns exec \"$host\" unshare -u "
                       "sh -c 'hostname \"$1\" && mount --bind " + hosts +
                       " /etc/hosts && shift && exec sh -c \"$*\"' agent \"$host\" \"$@\"\n")
        os.chmod(self.agent, 0o700)

    def add(self, name):
        must("ip", "netns", "add", name)
        self.made.append(name)

    def remove(self):
        for name in self.made:
            for pid in run("ip", "netns", "pids", name).stdout.split():
                run("kill", "-9", pid)
            run("ip", "netns", "del", name)


def measure(args, hosts):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_plm_rsh_agent=hosts.agent, OMPI_MCA_btl="tcp,self",
                       OMPI_MCA_oob_tcp_if_include=f"{SUBNET}.0/24",
                       OMPI_MCA_btl_tcp_if_include=f"{SUBNET}.0/24")
    command = ["mpirun", "-np", str(args.hosts), "--bind-to", "none", "--host",
               ",".join(hosts.names), os.path.abspath(args.program), "bench", "allreduce",
               "--transport", "zmq", "--algorithm", args.algorithm, "--min-bytes",
               str(args.bytes), "--max-bytes", str(args.bytes), "--rounds", str(args.rounds)]
    done = subprocess.run([hosts.agent, hosts.names[0], " ".join(command)], env=environment,
                          capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}\nshaped_links: mpirun ended with {done.returncode}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/shoal")
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--mbit", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=64 << 20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--algorithm", default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hosts = Hosts(args.hosts, args.mbit, folder)
        try:
            hosts.make()
            output = measure(args, hosts)
        except (Skip, FileNotFoundError) as why:
            print(f"SKIPPED shaped_links: {why}")
            sys.exit(77)
        finally:
            hosts.remove()
    row = next((line for line in output.splitlines() if line.split()[:1] == [str(args.bytes)]), "")
    spreads = re.findall(r"(\d+) \((\d+) to (\d+)\)", row)
    if not spreads:
        sys.exit(f"{output}\nshaped_links: found no times in that")
    bound = 2 * (args.hosts - 1) / args.hosts * args.bytes * 8 / (args.mbit * 1e6)
    print(f"{args.hosts} hosts, {args.mbit} Mbit/s each way, {args.bytes} bytes, algorithm "
          f"{args.algorithm}, {args.rounds} rounds; bound {bound:.3f} s")
    for name, times in zip(["shoal", "Open MPI"], spreads):
        median, least, most = (int(t) / 1e6 for t in times)
        print(f"{name}: {median:.3f} s ({least:.3f} to {most:.3f}), {bound / median:.3f} "
              f"({bound / most:.3f} to {bound / least:.3f}) of the bound")
    sys.exit(bound / (int(spreads[0][0]) / 1e6) < 0.9)


if __name__ == "__main__":
    main()
