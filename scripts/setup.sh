#!/usr/bin/env bash
# Installs what building fusiond needs and this machine lacks: on Debian and Ubuntu with apt, elsewhere it says what to do.
# Asks before it installs, unless root runs it or YES=1. Does nothing, quickly, where nothing is missing.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    [ "$(uname -s)" = Darwin ] && return 0 # comes with the compiler
    # bindgen loads the library at build time, from LLVM's folders or the linker's; the C++ one, libclang-cpp, is no help.
    local folder name
    for folder in '/usr/lib/llvm-*/lib' '/usr/lib*' '/usr/lib/*-linux-gnu' /usr/local/lib; do
        for name in 'libclang.so*' 'libclang-[0-9]*.so*'; do
            compgen -G "$folder/$name" >/dev/null && return 0
        done
    done
    return 1
}

# CMake keeps the flags that a build folder was made with; those of today stand in .cargo/config.toml.
if [ "$(uname -sm)" = "Linux x86_64" ]; then
    for cache in "${CARGO_TARGET_DIR:-target}"/llama-cmake-cache/*/build/CMakeCache.txt; do
        if [ -f "$cache" ] && ! grep -q -- "-fno-dse -U__AVX512FP16__" "$cache"; then
            rm -r "${cache%/build/CMakeCache.txt}"
        fi
    done
fi

missing=() # Debian's package names
has make || missing+=(make)
has c++ || missing+=(g++)
has cmake || missing+=(cmake)
has_libclang || missing+=(libclang-dev)
has python3 || missing+=(python3)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)

if ! has cargo; then
    echo "setup: Rust is missing. Install it with rustup (https://rustup.rs), then run this again." >&2
    exit 1
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

if ! has apt-get; then
    echo "setup: missing here (by their Debian names): ${missing[*]}" >&2
    if [ "$(uname -s)" = Darwin ]; then
        echo "setup: on macOS: xcode-select --install; brew install cmake python" >&2
    else
        echo "setup: on Fedora: dnf install make gcc-c++ cmake clang-devel python3 python3-pip" >&2
        echo "setup: on Arch: pacman -S make gcc cmake clang python python-pip" >&2
    fi
    exit 1
fi

root=()
[ "$(id -u)" -eq 0 ] || root=(sudo)
echo "setup: will run: ${root[*]:+${root[*]} }apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ] && [ "${YES:-}" != 1 ]; then
    read -r -p "setup: go on? [y/N] " answer || answer=
    case "$answer" in
        [yY]*) ;;
        *)
            echo "setup: nothing was installed (YES=1 answers for you)" >&2
            exit 1
            ;;
    esac
fi
# macOS's old bash has no way to expand an empty array under -u but this.
${root[@]+"${root[@]}"} apt-get update -q
${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
