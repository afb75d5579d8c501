#!/bin/sh
# Adds QEMU 11 to the lab cache that setup.sh has filled: the first one packaged that can play SR-IOV (virtio-net `sriov-pf=`), and
# what a guest inside the host guest runs on.
#
# It comes from Debian 13's backports with the libraries of Debian 13, so it has a folder of its own: two releases in one would be none.
# The private apt of setup.sh does the work once more, with other suites. A script of its own so that a change here does not unpack
# everything else again.
#
#   tools/lab/qemu11.sh           fill or refresh, print the cache's path
#   VSWITCH_LAB, VSWITCH_LAB_MIRROR   as for setup.sh
#
# Layout, in the cache: apt11/ downloads, root11/ unpacked, bin/ is setup.sh's, recipe11 what was built, root11/qemu the wrapper.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/setup.sh")
suite=trixie
say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

exec 9>"$cache/lock11"
flock -n 9 || { say "another run is fetching QEMU 11, waiting for it"; flock 9; }
recipe=$(sha256sum <"$here/qemu11.sh" | cut -c1-16)-$cache
if [ "$(cat "$cache/recipe11" 2>/dev/null)" = "$recipe" ]; then
  echo "$cache"
  exit 0
fi

# --- the same private apt, other suites ----------------------------------------------------------------------------
apt=$cache/apt11 root=$cache/root11
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/none/partial" "$apt/etc"
: >"$apt/status"
sed "s#\"$cache/apt\([\"/]\)#\"$apt\1#" "$cache/apt/etc/apt.conf" >"$apt/etc/apt.conf"
old=$(sed -n '1s/.* \([^ ]*\) main$/\1/p' "$cache/apt/etc/sources.list")
[ -n "$old" ] || die "$cache/apt/etc/sources.list is not what setup.sh writes"
sed "s/ $old/ $suite/" "$cache/apt/etc/sources.list" >"$apt/etc/sources.list"
cat >"$apt/etc/preferences" <<PIN
Package: qemu-system* seabios
Pin: release n=$suite-backports
Pin-Priority: 900
PIN
export APT_CONFIG="$apt/etc/apt.conf"
log=$apt/fetch.log
fetch() {
  apt-get -q -y "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "'apt-get $1' for QEMU 11 failed (log: $log); check the network and the mirror"; }
}
say "reading package lists of $suite"
fetch update
need=$(apt-get install -y --print-uris -o Dir::Cache::archives="$apt/none" qemu-system-x86 |
  sed -n "s/^'.* \([^ ]*\.deb\) \([0-9]*\) .*/\1 \2/p")
say "fetching QEMU 11: $(echo "$need" | wc -l) packages, $(echo "$need" | awk '{ s += $2 } END { printf "%d", s / 1e6 }') MB (kept for next time)"
fetch install --download-only qemu-system-x86

# --- unpack: programs, libraries and firmware only -----------------------------------------------------------------
new=$root.new
rm -rf "$new"
mkdir -p "$new/usr/lib" "$new/usr/lib64" "$new/usr/bin" "$new/usr/sbin"
for d in lib lib64 bin sbin; do ln -s usr/$d "$new/$d"; done
echo "$need" | while read -r deb _; do
  dpkg-deb --fsys-tarfile "$apt/archives/$deb" |
    tar -x -C "$new" --keep-directory-symlink --no-same-owner --exclude='./usr/share/doc' --exclude='./usr/share/locale' \
      --exclude='./usr/share/man' --exclude='./usr/share/icons'
done
[ -x "$new/usr/bin/qemu-system-x86_64" ] || die "there is no QEMU in what was unpacked; the list in $here/qemu11.sh needs an update"
cat >"$new/qemu" <<WRAP
#!/bin/sh
export QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu
exec $root/usr/lib64/ld-linux-x86-64.so.2 --argv0 qemu11 --library-path $root/usr/lib/x86_64-linux-gnu $root/usr/bin/qemu-system-x86_64 \\
  -L $root/usr/share/qemu -L $root/usr/share/seabios "\$@"
WRAP
chmod 755 "$new/qemu"
rm -rf "$root"
mv "$new" "$root"
echo "$recipe" >"$cache/recipe11"
say "ready: QEMU 11, $(du -sh "$root" | cut -f1), in $root"
echo "$cache"
