#!/bin/sh
# Starts OpenPBS on a host of a bed, the first time with a home on the host's own disk; returns when
# its daemons run. pbs.sh EXEC server|mom [DIRECTORY...]: of a Python that everybody may run.
set -eu
exec=$1 role=$2
shift 2
home=/var/spool/pbs
server=0
[ "$role" = mom ] || server=1
for bin in /usr/lib/postgresql/*/bin; do # of the server's data service
    PATH=$bin:$PATH
done
if [ ! -e /etc/pbs.conf ]; then
    for directory in "$@"; do
        chmod o+x "$directory"
    done
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
if [ "$role" = mom ]; then
    exec "$exec/sbin/pbs_mom"
fi
install -d -o postgres /run/postgresql # the data service's socket
exec "$exec/libexec/pbs_init.d" start
