#!/bin/sh
# Adds a second guest kernel to the lab cache that setup.sh has filled: Debian's ordinary one, which has the drivers of network cards that the
# kernel for clouds leaves out. For tests in which the guest's kernel has the physical function of an SR-IOV card.
#
# It is the same version as the other, so that both guests behave alike; of its modules only what the tests may load is unpacked.
#
#   tools/lab/kernel-with-cards.sh        fill or refresh, print the cache's path
#   VSWITCH_LAB, VSWITCH_LAB_MIRROR       as for setup.sh
#
# Layout, in the cache: apt/ is setup.sh's, kernel-cards/ unpacked, recipe-cards what was built.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/setup.sh")
say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

exec 9>"$cache/lock-cards"
flock -n 9 || { say "another run is fetching that kernel, waiting for it"; flock 9; }
version=$(basename "$(ls -d "$cache"/kernel/lib/modules/*)")
recipe=$(sha256sum <"$here/kernel-with-cards.sh" | cut -c1-16)-$version-$cache
if [ "$(cat "$cache/recipe-cards" 2>/dev/null)" = "$recipe" ]; then
  echo "$cache"
  exit 0
fi

package=linux-image-$(echo "$version" | sed 's/-cloud-/-/')
export APT_CONFIG="$cache/apt/etc/apt.conf"
log=$cache/apt/fetch-cards.log
(
  cd "$cache/apt/archives"
  ls "${package}"_*.deb >/dev/null 2>&1 && exit 0
  say "fetching $package, 106 MB (kept for next time)"
  apt-get -q download "$package" >"$log" 2>&1
) || { tail -n 20 "$log" >&2; die "cannot download $package (log: $log); check the network and the mirror"; }

new=$cache/kernel-cards.new
rm -rf "$new"
mkdir "$new"
# Drivers of cards, what they need of the rest, and what a guest that plays the host needs.
dpkg-deb --fsys-tarfile "$(ls -t "$cache/apt/archives/$package"_*.deb | head -n 1)" |
  tar -x -C "$new" --no-same-owner --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/drivers/net/*' \
    './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/vfio/*' './lib/modules/*/kernel/drivers/dca/*' \
    './lib/modules/*/kernel/drivers/i2c/*' './lib/modules/*/kernel/drivers/ptp/*' './lib/modules/*/kernel/net/*' \
    './lib/modules/*/kernel/virt/*' './lib/modules/*/kernel/lib/*' './lib/modules/*/kernel/drivers/iommu/*'
[ -n "$(find "$new" -name 'igb.ko*')" ] || die "there is no igb in $package; the list in $here/kernel-with-cards.sh needs an update"
rm -rf "$cache/kernel-cards"
mv "$new" "$cache/kernel-cards"
echo "$recipe" >"$cache/recipe-cards"
say "ready: kernel with drivers of cards, $(du -sh "$cache/kernel-cards" | cut -f1), in $cache/kernel-cards"
echo "$cache"
