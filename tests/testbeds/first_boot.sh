#!/bin/sh
# Before systemd takes over a host of a bed, once: what this machine starts, the host does not.
set -eu
[ -e /etc/lemnos-bed ] && exit
touch /etc/lemnos-bed

rm -f /etc/systemd/system/*.wants/* /etc/fstab /etc/machine-id
touch /etc/fstab /etc/machine-id
hostname >/etc/hostname
mkdir -p /etc/systemd/system-generators /var/lib/systemd/linger
touch /var/lib/systemd/linger/ada
mask() { ln -sf /dev/null "/etc/systemd/system/$1"; }
# tmpfiles empties directories that belong to this machine; the others want its devices.
for unit in systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service \
    systemd-tmpfiles-clean.service systemd-tmpfiles-clean.timer systemd-udevd.service \
    systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service \
    systemd-pstore.service systemd-timesyncd.service systemd-networkd.service \
    systemd-remount-fs.service getty.target console-getty.service tmp.mount; do
    mask "$unit"
done
ln -sf /dev/null /etc/systemd/system-generators/systemd-sysv-generator
# Python is of this machine's root: everybody may pass, nobody but root may look.
for directory in "$@"; do
    chmod o+x "$directory"
done
