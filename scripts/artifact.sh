# shellcheck shell=bash
# What the scripts that make something to hand out share: which version, of when, for which machine.
#
# Sourced, in the root of the repository.

# field NAME prints a field of the workspace's manifest.
field() { sed -n "/^\[workspace.package\]/,/^\[/ s/^$1 = \"\(.*\)\"/\1/p" Cargo.toml; }

# shellcheck disable=SC2034 # for what sources this
version=$(field version)
# When the last commit was made; where there is none, the changelog says.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c safe.directory="$PWD" log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}

# architecture EXECUTABLE prints Debian's name of the processor that it is for, which is Go's as well.
architecture() {
    case $(od -An -j18 -N2 -t u2 --endian=little "$1" | tr -d ' ') in
    62) echo amd64 ;;
    183) echo arm64 ;;
    *)
        echo "${0#"$PWD/"}: $1 is neither for amd64 nor for arm64" >&2
        return 1
        ;;
    esac
}

# triple EXECUTABLE prints Rust's name of the machine that it is for.
triple() {
    local name
    name=$(architecture "$1")
    case $name in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    esac
}

# archive FILE FOLDER WHAT... makes a tar archive whose bytes depend on the contents and modes alone.
archive() {
    local file=$1 folder=$2
    shift 2
    tar --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        -C "$folder" -cf "$file" "$@"
}
