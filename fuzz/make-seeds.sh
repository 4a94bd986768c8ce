#!/usr/bin/env bash
# Makes the seeds anew: make-seeds.sh IMAGES, where IMAGES is the set that `tests/images/make-images.sh` made (small).
# Needs what that needs. Tools write other identifiers each time, so the seeds differ at each run; keep the old ones
# unless there is a reason.
set -euo pipefail
images=$(realpath "$1")
cd "$(dirname "$0")"
cargo build --quiet --locked --example pack
pack=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/examples/pack
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
seeds=$work/seeds
mkdir "$work/tree" "$work/tree/directory"
for number in $(seq 1 12); do head -c $((number * 9000)) /dev/zero | tr '\0' x >"$work/tree/directory/$number"; done

# disk TARGET NAME SOURCE, junk …, file …: one seed.
disk() { mkdir -p "$seeds/$1" && "$pack" disk "$3" "$seeds/$1/$2"; }
junk() { mkdir -p "$seeds/$1" && "$pack" junk "$3" "$seeds/$1/$2"; }
file() { mkdir -p "$seeds/$1" && "$pack" file "$3" "$seeds/$1/$2"; }
blank() { rm -f "$work/image" && truncate -s "$1" "$work/image"; }
# ext NAME SIZE OPTION…
ext() {
  local name=$1 size=$2
  shift 2
  blank "$size"
  mke2fs -q -F -E lazy_itable_init=1 -d "$work/tree" "$@" "$work/image"
  disk ext "$name" "$work/image"
}

for name in ext2-1k ext3 ext4-1k ext4-4k ext4-inline ext4-sparse2 ext4-uninit ext4-error-state; do
  disk ext "$name" "$images/fs/$name.raw"
done
ext bigalloc 48M -t ext4 -b 1024 -O bigalloc -C 16384
ext meta-bg 40M -t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode
ext mmp 24M -t ext4 -b 4096 -O mmp,quota
ext groups 40M -t ext4 -b 1024 -g 2048 -G 4

for name in fat12 fat16 fat32; do disk fat "$name" "$images/fs/$name.raw"; done
disk exfat small "$images/fs/exfat.raw"
blank 64M && mkfs.exfat -q -s 512 -c 512 "$work/image" >/dev/null && disk exfat sectors "$work/image"

for name in ntfs ntfs-dirty; do disk ntfs "$name" "$images/fs/$name.raw"; done
disk ntfs partition "$images/data-ntfs.qcow2"
blank 16M && mkntfs -q -F -f -p 0 -H 16 -S 63 -c 512 "$work/image" >/dev/null && disk ntfs clusters-512 "$work/image"

printf '/dev/null\n1 1\nd--755 0 0\na ---644 0 0 %s\nb ---644 0 0 %s\n$\n' "$work"/tree/directory/{3,9} >"$work/files"
for kind in "default" "block-1k -b size=1024" "reverse -m rmapbt=1,reflink=0" "version-4 -m crc=0" "one-group -d agcount=1"; do
  read -r name options <<<"$kind"
  blank 320M
  # shellcheck disable=SC2086 # several words
  if mkfs.xfs -q -p "$work/files" $options "$work/image" 2>/dev/null; then disk xfs "$name" "$work/image"; fi
done
disk xfs used "$images/debian-xfs.qcow2"

disk btrfs mixed "$images/fs/btrfs-mixed.raw"
for kind in "default" "single -m single -n 4096" "no-tree -R ^free-space-tree" "group-tree -O block-group-tree" "xxhash --csum xxhash"; do
  read -r name options <<<"$kind"
  blank 128M
  # shellcheck disable=SC2086 # several words
  if mkfs.btrfs -q --rootdir "$work/tree" $options "$work/image" >/dev/null 2>&1; then disk btrfs "$name" "$work/image"; fi
done

disk lvm debian "$images/debian-lvm.qcow2"
for name in swap swap-hibernated; do disk swap "$name" "$images/fs/$name.raw"; done
for page in 8192 65536; do blank 4M && mkswap -q -p "$page" "$work/image" 2>/dev/null && disk swap "page-$page" "$work/image"; done

# Partition tables of every sort around a little ext4 and swap space.
partitioned() {
  blank 24M && sfdisk -q --no-tell-kernel "$work/image"
  mke2fs -q -F -t ext4 -b 1024 -E offset=1048576,lazy_itable_init=1 -d "$work/tree" "$work/image" 12M
  mkswap -q -o 15728640 "$work/image" 2>/dev/null || true
  disk tables "$1" "$work/image"
  junk compress "$1" "$work/image"
}
printf 'label: gpt\nsize=12M, start=1M, name=root\nsize=8M, start=15M\n' | partitioned gpt
printf 'label: dos\nsize=12M, start=1M, type=83\nsize=8M, start=14M, type=5\nsize=4M, start=15M\nsize=2M, start=20M\n' | partitioned mbr
disk tables logical "$images/fs/mbr-logical.raw"
for name in ext4-1k fat16 ntfs swap btrfs-mixed exfat; do junk compress "$name" "$images/fs/$name.raw"; done
disk compress xfs "$images/debian-xfs.qcow2"

# qcow2 FILES of every sort; patterns, since what is compressed or random costs room here.
qcow2() {
  local name=$1
  shift
  qemu-img create -q -f qcow2 "$@" "$work/$name" 16M
  qemu-io -f qcow2 -c 'write -q -P 17 0 192k' -c 'write -q -P 34 5M 64k' -c 'write -q -z 6M 128k' -c 'discard -q 64k 64k' "$work/$name" >/dev/null
  for target in qcow2_read qcow2_check inspect; do file "$target" "$name" "$work/$name"; done
}
compressed() {
  local name=$1
  shift
  qemu-img create -q -f qcow2 "$@" "$work/$name" 16M
  qemu-io -f qcow2 -c 'write -q -c -P 17 0 64k' -c 'write -q -c -P 34 64k 64k' -c 'write -q -P 51 256k 64k' "$work/$name" >/dev/null
  for target in qcow2_read qcow2_check inspect; do file "$target" "$name" "$work/$name"; done
}
qcow2 v3
qcow2 v2 -o compat=0.10
qcow2 clusters-512 -o cluster_size=512
qcow2 clusters-2m -o cluster_size=2M
qcow2 sub-clusters -o extended_l2=on
qcow2 refcounts-1 -o refcount_bits=1
qcow2 refcounts-64 -o refcount_bits=64,cluster_size=4096
compressed zlib
compressed zstd -o compression_type=zstd
qemu-img create -q -f qcow2 -o cluster_size=4096 "$work/more" 4M
qemu-io -f qcow2 -c 'write -q -P 1 0 64k' "$work/more" >/dev/null
qemu-img snapshot -c one "$work/more"
qemu-io -f qcow2 -c 'write -q -P 2 0 32k' "$work/more" >/dev/null
qemu-img snapshot -c two "$work/more"
qemu-img bitmap --add "$work/more" dirty
qemu-io -f qcow2 -c 'write -q -P 3 1M 32k' "$work/more" >/dev/null
for target in qcow2_read qcow2_check inspect; do file "$target" snapshots "$work/more"; done
qemu-img create -q -f qcow2 -b "$work/more" -F qcow2 "$work/back" && qemu-img rebase -q -u -b other.qcow2 -F qcow2 "$work/back"
for target in qcow2_read inspect; do file "$target" backing "$work/back"; done
for path in "$images"/formats/*; do
  case $path in *.iso) length=36864 ;; *) length=1536 ;; esac
  head -c "$length" "$path" >"$work/image"
  file inspect "$(basename "$path" | tr . -)" "$work/image"
done

# Archives: each method and form, and members that are passed over.
python3 - "$work" <<'END'
import sys, zipfile

class Pipe:
    def __init__(self, file): self.file = file
    def write(self, data): return self.file.write(data)
    def flush(self): self.file.flush()

for name, method, is_long, is_pipe in (
    ('stored', zipfile.ZIP_STORED, False, False), ('deflated', zipfile.ZIP_DEFLATED, False, False),
    ('descriptor', zipfile.ZIP_DEFLATED, False, True), ('zip64', zipfile.ZIP_STORED, True, False),
    ('zip64-descriptor', zipfile.ZIP_DEFLATED, True, True),
):
    with open(f'{sys.argv[1]}/{name}', 'wb') as file:
        with zipfile.ZipFile(Pipe(file) if is_pipe else file, 'w', method) as archive:
            archive.writestr(zipfile.ZipInfo('pack/'), b'')
            archive.writestr(zipfile.ZipInfo('__MACOSX/pack/._disk.img'), b'fork')
            info = zipfile.ZipInfo('pack/disk.img')
            info.compress_type = method
            with archive.open(info, 'w', force_zip64=is_long) as member:
                member.write(b'guest' * 60 + bytes(9000))
            archive.comment = b'comment'
END
for name in stored deflated descriptor zip64 zip64-descriptor; do file zip "$name" "$work/$name"; done

# Packed files: each tool, and two pieces behind each other.
head -c 9000 "$work/tree/directory/1" >"$work/plain"
head -c 40000 /dev/zero >>"$work/plain"
for tool in gzip xz zstd; do
  "$tool" -q -c -9 "$work/plain" >"$work/packed"
  file packed "$tool" "$work/packed"
  "$tool" -q -c -1 "$work/tree/directory/2" >>"$work/packed"
  file packed "$tool-twice" "$work/packed"
done

rm -rf seeds
mv "$seeds" seeds
du -sb seeds
