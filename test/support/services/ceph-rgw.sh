#!/usr/bin/env bash
# One Ceph node with an S3 gateway on 127.0.0.1, in memory, or on disk with STORE=bluestore: no systemd, no manager, no
# authentication inside.
# Prints "ready" when it answers. Runs until its standard input ends, which happens whichever way its parent ends;
# then it kills what it has started and removes its folder.
#   ceph-rgw.sh <S3 port> <monitor port> <access key> <secret key>
# Debian packages: ceph-mon ceph-osd radosgw
set -euo pipefail
s3_port=$1 monitor_port=$2 access_key=$3 secret_key=$4

# Ctrl-C in a terminal reaches us too, while tests still run: only the end of standard input ends us.
trap '' INT TERM HUP
exec 3<&0 </dev/null
folder=$(mktemp -d "${TMPDIR:-/tmp}/landfall-ceph-XXXXXX")
conf=$folder/ceph.conf
daemons=()

# The data is thrown away: nothing has to be shut down in order.
clean_up() {
  # Bash would report each daemon that was killed.
  exec 2>/dev/null
  if [ ${#daemons[@]} -gt 0 ]; then
    kill -9 "${daemons[@]}" || true
    wait || true
  fi
  rm -rf "$folder"
}
trap clean_up EXIT

fail() {
  echo "$1" >&2
  tail -n 5 "$folder"/*.log >&2 || true
  exit 1
}

# Starts a daemon in a session of its own, where Ctrl-C does not reach it.
start() {
  local name=$1
  shift
  setsid "$@" >"$folder/$name.log" 2>&1 3<&- &
  daemons+=($!)
}

wait_for() {
  local what=$1
  shift
  for _ in $(seq 300); do
    if "$@" 2>/dev/null; then return; fi
    kill -0 "${daemons[-1]}" 2>/dev/null || fail "Ceph: a daemon ended while waiting for $what"
    sleep 0.1
  done
  fail "Ceph: waited 30 s in vain for $what"
}

mkdir "$folder"/{mon,osd,rgw}
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >"$conf" <<EOF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$monitor_port]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
run_dir = $folder
admin_socket =
log_file =
crash_dir = $folder
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
osd_objectstore = ${STORE:-memstore}
memstore_device_bytes = 4294967296
bluestore_block_size = 10737418240
bluestore_fsck_on_mkfs = false
osd_memory_target = 939524096
[mon]
mon_data = $folder/mon
[osd]
osd_data = $folder/osd
[client.rgw]
rgw_data = $folder/rgw
rgw_frontends = beast endpoint=127.0.0.1:$s3_port
rgw_gc_obj_min_wait = 5
rgw_gc_processor_period = 10
rgw_gc_processor_max_time = 10
EOF

monmaptool --create --addv a "[v2:127.0.0.1:$monitor_port]" --fsid "$fsid" "$folder/monmap" >/dev/null
ceph-mon -c "$conf" -i a --mkfs --monmap "$folder/monmap"
start mon ceph-mon -c "$conf" -i a -f

osd=$(cat /proc/sys/kernel/random/uuid)
ceph -c "$conf" --connect-timeout 30 osd new "$osd" >/dev/null
ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd" 2>"$folder/mkfs.log"
start osd ceph-osd -c "$conf" -i 0 -f
osd_is_up() { ceph -c "$conf" osd stat | grep -q '1 up'; }
wait_for 'the object store' osd_is_up

radosgw-admin -c "$conf" -n client.rgw user create --uid=test --display-name=test \
  --access-key="$access_key" --secret-key="$secret_key" >/dev/null 2>"$folder/user.log" || fail 'Ceph: no S3 user'
start rgw radosgw -c "$conf" -n client.rgw -f
port_is_open() { (exec 4<>"/dev/tcp/127.0.0.1/$s3_port"); }
wait_for 'the S3 gateway' port_is_open

echo ready
cat <&3 >/dev/null
