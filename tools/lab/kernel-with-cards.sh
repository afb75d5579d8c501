#!/bin/sh
# Adds a second guest kernel to the lab cache that setup.sh has filled: the ordinary one of Debian 13's backports. It has the drivers of network cards
# that the kernel for clouds leaves out, for tests in which the guest's kernel has the physical function of an SR-IOV card; and in it
# `igb` and `virtio_net` hand frames to AF_XDP sockets without a copy, which older ones do not.
#
#   tools/lab/kernel-with-cards.sh    fill or refresh, print the cache's path
#   VSWITCH_LAB, VSWITCH_LAB_MIRROR   as for setup.sh
#
# 121 MB to download (kept), 62 MB unpacked: of the modules only networks, virtio, VFIO and what those need.
# Layout, in the cache: apt11/ is qemu11.sh's, kernel-cards/{boot,lib/modules} unpacked, recipe-cards what was built.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/qemu11.sh")
suite=trixie-backports
say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

exec 9>"$cache/lock-cards"
flock -n 9 || { say "another run is fetching that kernel, waiting for it"; flock 9; }
recipe=$(sha256sum <"$here/kernel-with-cards.sh" | cut -c1-16)-$cache
if [ "$(cat "$cache/recipe-cards" 2>/dev/null)" = "$recipe" ]; then
  echo "$cache"
  exit 0
fi

export APT_CONFIG="$cache/apt11/etc/apt.conf"
image=$(apt-cache show linux-image-amd64/$suite | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | head -n 1)
[ -n "$image" ] || die "no linux-image-amd64 in $suite"
version=${image#linux-image-}
archives=$cache/apt11/archives log=$cache/apt11/fetch.log
for p in "linux-binary-$version" "linux-modules-$version"; do
  ls "$archives/$p"_*.deb >/dev/null 2>&1 && continue
  say "fetching $p (kept for next time)"
  (cd "$archives" && apt-get -q download "$p" >"$log" 2>&1) ||
    { tail -n 20 "$log" >&2; die "cannot download $p (log: $log); check the network and the mirror"; }
done

new=$cache/kernel-cards.new
rm -rf "$new"
mkdir -p "$new/boot" "$new/lib"
for p in "linux-binary-$version" "linux-modules-$version"; do
  # tar says so when one of the patterns matches nothing in one of the two; what must be there is looked at below.
  dpkg-deb --fsys-tarfile "$(ls -t "$archives/$p"_*.deb | head -n 1)" |
    tar -x -C "$new" --no-same-owner --wildcards './usr/lib/modules/*/vmlinuz' './usr/lib/modules/*/kernel/net/*' \
      './usr/lib/modules/*/kernel/drivers/net/*' './usr/lib/modules/*/kernel/drivers/virtio/*' './usr/lib/modules/*/kernel/drivers/vfio/*' \
      './usr/lib/modules/*/kernel/drivers/dca/*' './usr/lib/modules/*/kernel/drivers/i2c/*' './usr/lib/modules/*/kernel/drivers/ptp/*' \
      './usr/lib/modules/*/kernel/drivers/iommu/*' './usr/lib/modules/*/kernel/lib/*' './usr/lib/modules/*/kernel/virt/*' 2>/dev/null || true
done
mv "$new/usr/lib/modules" "$new/lib/modules"
mv "$new/lib/modules/$version/vmlinuz" "$new/boot/vmlinuz-$version"
[ -n "$(find "$new" -name 'igb.ko*')" ] || die "there is no igb in linux-modules-$version; the list in $here/kernel-with-cards.sh needs an update"
rm -rf "$cache/kernel-cards"
mv "$new" "$cache/kernel-cards"
echo "$recipe" >"$cache/recipe-cards"
say "ready: kernel $version, $(du -sh "$cache/kernel-cards" | cut -f1), in $cache/kernel-cards"
echo "$cache"
