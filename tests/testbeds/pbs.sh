#!/bin/sh
# Starts OpenPBS on a host of a bed, the first time with a home on the host's own disk; returns when
# its daemons run. pbs.sh EXEC server|mom
set -eu
exec=$1
home=/var/spool/pbs
server=0
[ "$2" = mom ] || server=1
for bin in /usr/lib/postgresql/*/bin; do # of the server's data service
    PATH=$bin:$PATH
done
if [ ! -e /etc/pbs.conf ]; then
    cat >/etc/pbs.conf <<EOF
PBS_EXEC=$exec
PBS_HOME=$home
PBS_SERVER=login
PBS_START_SERVER=$server
PBS_START_SCHED=$server
PBS_START_COMM=$server
PBS_START_MOM=0
PBS_SCP=/usr/bin/scp
EOF
    "$exec/libexec/pbs_postinstall" server '' "$exec" "$home" postgres sameconf
    # All hosts of a bed have the same files, and GPUs are counted.
    echo "\$usecp *:/ /" >>"$home/mom_priv/config"
    sed -i 's/^resources: "/&ngpus, gpu_model, /' "$home/sched_priv/sched_config"
fi
if [ "$2" = mom ]; then
    exec "$exec/sbin/pbs_mom"
fi
install -d -o postgres /run/postgresql # the data service's socket
exec "$exec/libexec/pbs_init.d" start
