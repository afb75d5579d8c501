#!/bin/sh
# Prints the path of a C++ compiler for libFuzzer, after fetching one into the lab cache: for machines that have the C
# compiler Rust needs and no other. Nothing is installed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$("$here/setup.sh")
root=$cache/cxx
exec 9>"$cache/lock"
flock 9
if [ ! -x "$cache/bin/c++" ]; then
  export APT_CONFIG="$cache/apt/etc/apt.conf"
  apt=$cache/apt
  echo "lab: fetching a C++ compiler" >&2
  need=$(apt-get install -y --print-uris -o Dir::Cache::archives="$apt/none" g++ | sed -n "s/^'.* \([^ ]*\.deb\) .*/\1/p" |
    cut -d' ' -f1)
  apt-get -q -y install --download-only g++ >"$apt/fetch.log" 2>&1 || { tail -n 20 "$apt/fetch.log" >&2; exit 1; }
  rm -rf "$root"
  mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
  for d in lib lib64 bin sbin; do ln -s usr/$d "$root/$d"; done
  for deb in $need; do
    dpkg-deb --fsys-tarfile "$apt/archives/$deb" | tar -x -C "$root" --keep-directory-symlink --no-same-owner
  done
  cat >"$cache/bin/c++.new" <<WRAP
#!/bin/sh
# The compiler proper is started by the driver without a wrapper, so its libraries are named in the environment.
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu PATH=$root/usr/bin:\$PATH exec $root/usr/bin/g++ --sysroot=$root "\$@"
WRAP
  chmod 755 "$cache/bin/c++.new"
  mv "$cache/bin/c++.new" "$cache/bin/c++"
fi
echo "$cache/bin/c++"
