# Sourced by the scripts beside it: what they need of Debian, installed where it is missing.

# need_packages PACKAGE...
need_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing: ${missing[*]}" >&2
    # Daemons among them are for the lab's namespaces; on this machine itself they are not to start.
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made_policy=1
    fi
    local status=0
    # The first time may fail for want of lists.
    apt_install "${missing[@]}" 2>/dev/null || { apt-get -qq update && apt_install "${missing[@]}"; } || status=$?
    [ -z "$made_policy" ] || rm -f "$policy"
    if [ $status -ne 0 ]; then
        echo "could not install: ${missing[*]}" >&2
        exit 1
    fi
    if [ -d /run/systemd/system ]; then
        for package in "${missing[@]}"; do
            case $package in knot | firewalld | ufw) systemctl --quiet disable "$package" || true ;; esac
        done
    fi
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: run it as root: it makes network namespaces. Nothing was done." >&2
        exit 2
    fi
}

need_cargo() {
    if ! command -v cargo >/dev/null; then
        echo "$0: no cargo: install Rust (https://rustup.rs)" >&2
        exit 2
    fi
}

# declared_path PACKAGE...
# Prints a PATH with the programs of these packages, of what every Debian has (essential and required packages), cargo
# and rustc, and nothing else: a program of a package that nobody declared is not found, on whatever machine.
declared_path() {
    local cache=${CARGO_TARGET_DIR:-target}/declared packages programs path link new
    mapfile -t packages < <(
        dpkg-query --show --showformat='${Essential} ${Priority} ${Package}\n' | sed -n 's/^yes .* //p; s/^no required //p'
        printf '%s\n' "$@"
    )
    # Links of /etc/alternatives are nobody's: they count if they point at one of these.
    programs=$(
        dpkg-query --listfiles "${packages[@]}" | grep -E '^(/usr)?/s?bin/[^/]+$' | sort -u
        for link in $(find /usr/bin /usr/sbin -maxdepth 1 -lname '/etc/alternatives/*'); do
            echo "$link -> $(readlink "$(readlink "$link")")"
        done
    )
    programs=$(awk 'NF == 1 { ours[$1]; print } $2 == "->" && ($3 in ours) { print $1 }' <<<"$programs")
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
    path=$cache/$(sha256sum <<<"$programs $(command -v cargo rustc)" | cut -c 1-16)
    if [ ! -d "$path" ]; then
        new=$(mktemp -d "$cache/new.XXXXXX")
        chmod 755 "$new"
        while read -r link; do ln -sf "$link" "$new/"; done <<<"$programs"
        for link in cargo rustc; do ln -sf "$(command -v "$link")" "$new/"; done
        # Another run may have made it meanwhile.
        mv -T "$new" "$path" 2>/dev/null || rm -rf "$new"
    fi
    echo "$path"
}

BUILD_PACKAGES=(build-essential pkg-config libnftnl-dev libmnl-dev)
# coreutils: stdbuf, timeout; util-linux: setpriv; iproute2: ip, bridge, ss.
LAB_PACKAGES=(coreutils util-linux iproute2 nftables knot knot-dnsutils)
# Besides, for tests and bench.
# systemd: systemd-analyze; procps: sysctl, which ufw runs; dbus-daemon: the bus of a firewalld.
TEST_PACKAGES=(conntrack iptables iputils-ping dnsperf systemd ufw procps firewalld dbus-daemon)
