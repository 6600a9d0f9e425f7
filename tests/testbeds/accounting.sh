#!/bin/sh
# Starts slurmdbd and its database on a bed's login host, with the bed's directory of Slurm;
# returns when they answer and know the cluster.
set -eu
data="$1/database"
log="$1/log/database"

serve() {  # without users: nobody else is on this host
    mariadbd --no-defaults --user=root --datadir="$data" --skip-grant-tables \
        --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 "$@" >>"$log" 2>&1
}
mkdir -p /run/mysqld
if [ ! -d "$data" ]; then
    mkdir "$data"
    # slurmdbd keeps procedures, which want the system's tables.
    { printf 'create database mysql;\nuse mysql;\n'; cat /usr/share/m[ay]*/m*_system_tables.sql; } |
        serve --bootstrap
fi
serve --skip-networking --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/pid \
    --innodb-flush-log-at-trx-commit=0 </dev/null &
until [ -S /run/mysqld/mysqld.sock ]; do sleep 0.05; done
slurmdbd
until sacctmgr --immediate --quiet show cluster >>"$log" 2>&1; do sleep 0.05; done

[ -e "$1/accounts" ] && exit
add() { sacctmgr --immediate --quiet add "$@" >>"$log"; }
add cluster bed
add qos brief MaxWall=00:02:00
add account lab Cluster=bed QOS=normal,brief DefaultQOS=normal
add account other Cluster=bed
add user root Cluster=bed Account=lab
# root has an account of that name from the start, which is the default one.
sacctmgr --immediate --quiet modify user root where cluster=bed set DefaultAccount=lab >>"$log"
touch "$1/accounts"
