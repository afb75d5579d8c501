#!/bin/sh
# Prints a C++ compiler that can build libFuzzer: $CXX, the machine's, or one unpacked into the lab cache.
#
# A machine with Rust has a C compiler, which links for it, but not always a C++ one. On Debian 12 what is missing are two
# packages; they are downloaded with the lab's private apt and unpacked beside the other lab programs. Nothing is installed.
set -eu
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "fuzz: $*" >&2; }
die() { say "$*"; exit 1; }

works() { # whether the compiler $1 makes an object file of a program that uses its library
  echo '#include <vector>' | "$1" -x c++ -c -o /dev/null - 2>/dev/null
}

for candidate in ${CXX-} c++ g++ clang++; do
  if command -v "$candidate" >/dev/null && works "$candidate"; then
    echo "$candidate"
    exit 0
  fi
done

remedy="install the package g++, or set CXX to a C++ compiler"
driver=$(command -v gcc-12) || die "no C++ compiler, which libFuzzer needs, and no gcc-12 to complete: $remedy"
cache=$("$here/../../tools/lab/setup.sh") || die "no C++ compiler, and the lab cache could not be filled: $remedy"
cxx=$cache/cxx
if ! works "$cxx/g++"; then
  say "no C++ compiler: fetching g++-12 and libstdc++-12-dev into $cxx"
  rm -rf "$cxx"
  mkdir -p "$cxx/root"
  (cd "$cxx" && APT_CONFIG=$cache/apt/etc/apt.conf apt-get -q download g++-12 libstdc++-12-dev libstdc++6 >log 2>&1) ||
    { tail -n 5 "$cxx/log" >&2; die "cannot download the C++ compiler: $remedy"; }
  for package in "$cxx"/*.deb; do dpkg-deb -x "$package" "$cxx/root"; done
  include=$cxx/root/usr/include
  cat >"$cxx/g++" <<WRAP
#!/bin/sh
exec $driver -B$cxx/root/usr/lib/gcc/x86_64-linux-gnu/12 -isystem $include/c++/12 \
  -isystem $include/x86_64-linux-gnu/c++/12 "\$@"
WRAP
  chmod 755 "$cxx/g++"
  works "$cxx/g++" || die "the unpacked C++ compiler does not work ($cxx/g++): $remedy"
fi
echo "$cxx/g++"
