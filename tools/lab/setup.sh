#!/bin/sh
# Fills the lab cache: QEMU, a guest kernel, busybox, iperf3, DPDK's testpmd, Open vSwitch and valgrind, as Debian packages.
#
# Nothing is installed. A private apt (its own sources, lists and an empty package database) works out which packages
# are needed and downloads them; they are unpacked into one folder, and a small wrapper per program starts it there
# with the loader and libraries it was built for. The machine's own apt sources and packages stay as they are, no
# root is needed, and deleting the folder undoes everything.
#
#   tools/lab/setup.sh            fill or refresh the cache, print its path
#   VSWITCH_LAB=DIR               where the cache is (default: ${XDG_CACHE_HOME:-$HOME/.cache}/vswitch-lab)
#   VSWITCH_LAB_MIRROR=URL        Debian mirror (default: the one this machine's apt uses)
#
# Layout: apt/ downloads, root/ unpacked programs, kernel/ unpacked kernel package, bin/ wrappers, recipe what was built.
# An interrupted run continues where it stopped; two runs at once wait for each other.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=${VSWITCH_LAB:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vswitch-lab}
suite=bookworm
kernel_meta=linux-image-cloud-amd64

# QEMU and the kernel come from backports (see preferences below), the rest from the stable release.
packages="qemu-system-x86 busybox-static iperf3 ethtool iproute2 xz-utils openvswitch-switch-dpdk dpdk
  librte-bus-pci23 librte-bus-vdev23 librte-mempool-ring23
  librte-net-virtio23 librte-net-vhost23 librte-net-tap23 librte-net-af-packet23"
# Wrapped programs: NAME=PATH inside root/.
programs="qemu-system-x86_64=usr/bin/qemu-system-x86_64 iperf3=usr/bin/iperf3 ethtool=usr/sbin/ethtool
  ip=usr/bin/ip tc=usr/sbin/tc xz=usr/bin/xz valgrind=usr/bin/valgrind.bin dpdk-testpmd=usr/bin/dpdk-testpmd
  ovs-vsctl=usr/bin/ovs-vsctl ovsdb-client=usr/bin/ovsdb-client ovsdb-tool=usr/bin/ovsdb-tool
  ovs-appctl=usr/bin/ovs-appctl ovs-ofctl=usr/bin/ovs-ofctl ovsdb-server=usr/sbin/ovsdb-server
  ovs-vswitchd-dpdk=usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

for tool in apt-get apt-cache dpkg-deb flock sha256sum; do
  command -v $tool >/dev/null || die "'$tool' is missing: the lab needs Debian 12 or a relative of it with apt"
done
[ "$(dpkg --print-architecture)" = amd64 ] || die "the guests are x86-64; this machine is $(dpkg --print-architecture)"

mkdir -p "$cache" || die "cannot create $cache: set VSWITCH_LAB to a folder you may write to"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock -n 9 || { say "another run is filling $cache, waiting for it"; flock 9; }

recipe=$(sha256sum <"$here/setup.sh" | cut -c1-16)
if [ "$(cat "$cache/recipe" 2>/dev/null)" = "$recipe-$cache" ]; then
  echo "$cache"
  exit 0
fi

# --- a private apt -------------------------------------------------------------------------------------------------
machine_mirror() { # the first http(s) mirror of the main Debian archive in the machine's own sources
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' |
    grep -E '^https?://.*/debian/?$' | head -n 1
}
apt="$cache/apt"
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/none/partial" "$apt/etc"
: >"$apt/status"
mirror=${VSWITCH_LAB_MIRROR:-$(machine_mirror)}
mirror=${mirror:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e $keyring ] || die "$keyring is missing: install the package debian-archive-keyring"
for s in $suite $suite-backports; do
  echo "deb [arch=amd64 signed-by=$keyring] $mirror $s main"
done >"$apt/etc/sources.list"
cat >"$apt/etc/preferences" <<PIN
Package: qemu-system* seabios linux-image-cloud-amd64
Pin: release n=$suite-backports
Pin-Priority: 900
PIN
cat >"$apt/etc/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "$apt/etc/preferences";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Architecture "amd64";
APT::Architectures:: "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "";
DPkg::Post-Invoke { "true"; };
APT::Update::Post-Invoke { "true"; };
CONF
export APT_CONFIG="$apt/etc/apt.conf"

# Runs apt-get and turns its status stream into a line every ten per cent, with the full output kept in a log.
fetch() {
  log=$apt/fetch.log
  { apt-get -q -y -o APT::Status-Fd=3 "$@" 3>&1 >"$log" 2>&1 || echo "failed:::"; } | {
    shown=-1
    while IFS=: read -r kind _ percent _; do
      case $kind in
      failed) exit 1 ;;
      dlstatus)
        tenth=$((${percent%%.*} / 10))
        if [ "$tenth" -gt "$shown" ]; then
          shown=$tenth
          say "  downloading: $((tenth * 10)) %"
        fi
        ;;
      esac
    done
  } || { tail -n 20 "$log" >&2; die "'apt-get $1' failed (log: $log); check the network and the mirror $mirror"; }
}

say "cache $cache, mirror $mirror"
say "reading package lists"
fetch update
kernel=$(apt-cache show $kernel_meta/$suite-backports | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1)
[ -n "$kernel" ] || die "no $kernel_meta in $suite-backports on $mirror"
# testpmd is in dpdk-dev, which would drag in every static library of DPDK: take what testpmd itself is linked to.
packages="$packages $(apt-cache show dpdk-dev | sed -n 's/^Depends: //p' | head -n 1 | tr ',' '\n' | sed 's/(.*//' |
  grep -vE 'libdpdk-dev|python3' | tr '\n' ' ')"
# valgrind depends on the debug symbols of the C library, which memcheck needs and callgrind does not.
single="$kernel dpdk-dev valgrind" # downloaded without what they depend on
# shellcheck disable=SC2086  # the list is split on purpose
need=$(apt-get install -y --print-uris -o Dir::Cache::archives="$apt/none" $packages | sed -n "s/^'.* \([^ ]*\.deb\) \([0-9]*\) .*/\1 \2/p")
say "fetching $(echo "$need" | wc -l) packages, $(echo "$need" | awk '{ s += $2 } END { printf "%d", s / 1e6 }') MB (kept for next time)"
# shellcheck disable=SC2086
fetch install --download-only $packages
say "fetching the guest kernel $kernel, testpmd and valgrind"
for p in $single; do
  (cd "$apt/archives" && ls "${p}"_*.deb >/dev/null 2>&1 || apt-get -q download "$p" >"$apt/fetch.log" 2>&1) ||
    { tail -n 20 "$apt/fetch.log" >&2; die "cannot download $p"; }
done

# --- unpack --------------------------------------------------------------------------------------------------------
say "unpacking"
new=$cache/root.new
rm -rf "$new" "$cache/kernel.new" "$cache/bin.new"
mkdir -p "$new/usr/lib" "$new/usr/lib64" "$new/usr/bin" "$new/usr/sbin"
for d in lib lib64 bin sbin; do ln -s usr/$d "$new/$d"; done # packages still name both /lib and /usr/lib
echo "$need" | while read -r deb _; do
  dpkg-deb --fsys-tarfile "$apt/archives/$deb" | tar -x -C "$new" --keep-directory-symlink --no-same-owner
done
newest() { ls -t "$apt/archives/$1"_*.deb | head -n 1; }
dpkg-deb --fsys-tarfile "$(newest dpdk-dev)" | tar -x -C "$new" --no-same-owner ./usr/bin/dpdk-testpmd
dpkg-deb --fsys-tarfile "$(newest valgrind)" | tar -x -C "$new" --keep-directory-symlink --no-same-owner
mkdir "$cache/kernel.new"
dpkg-deb -x "$(newest "$kernel")" "$cache/kernel.new"

# --- wrappers ------------------------------------------------------------------------------------------------------
say "writing wrappers"
mkdir "$cache/bin.new"
root=$cache/root
pmds=$(cd "$new" && ls -d usr/lib/x86_64-linux-gnu/dpdk/pmds-*)
for p in $programs; do
  name=${p%%=*} path=${p#*=} before='' extra=''
  [ -e "$new/$path" ] || die "$path is in none of the packages; the list in $here/setup.sh needs an update"
  case $name in
  qemu-system-x86_64)
    before="export QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu"
    extra="-L $root/usr/share/qemu -L $root/usr/share/seabios" ;;
  valgrind)
    before="export VALGRIND_LIB=$root/usr/libexec/valgrind" ;;
  dpdk-testpmd | ovs-vswitchd-dpdk)
    # DPDK always loads its compiled-in plugin folder and panics when it meets a plugin twice; should the machine have
    # a DPDK of its own, ours covers it in a mount namespace that only this program sees.
    before="if [ -d /$pmds ] && [ -z \"\${LAB_PMDS-}\" ]; then
  export LAB_PMDS=covered
  exec unshare -m sh -c 'mount --bind \$1 \$2 && shift 2 && exec \"\$@\"' - $root/$pmds /$pmds \"\$0\" \"\$@\"
fi"
    [ $name = ovs-vswitchd-dpdk ] || extra="-d $root/$pmds" ;;
  esac
  cat >"$cache/bin.new/$name" <<WRAP
#!/bin/sh
$before
exec $root/usr/lib64/ld-linux-x86-64.so.2 --argv0 $name --library-path $root/usr/lib/x86_64-linux-gnu $root/$path $extra "\$@"
WRAP
  chmod 755 "$cache/bin.new/$name"
done
cp "$new/usr/bin/busybox" "$cache/bin.new/busybox" 2>/dev/null || cp "$new/bin/busybox" "$cache/bin.new/busybox"
echo "$root/$pmds" >"$cache/bin.new/.pmds"

rm -rf "$root" "$cache/kernel" "$cache/bin"
mv "$new" "$root"
mv "$cache/kernel.new" "$cache/kernel"
mv "$cache/bin.new" "$cache/bin"
echo "$recipe-$cache" >"$cache/recipe"
say "ready: $(du -sh "$cache" | cut -f1) in $cache"
echo "$cache"
