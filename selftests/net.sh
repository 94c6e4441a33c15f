#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the test scripts, after lib.sh: the links to test on.
#
# Without NETIF these are loopback, veth, pairs of idle NICs of one driver back to back, and what can
# be made of veth (NET_OVER), in network namespaces of our own: the local end is in the script's, the
# other in a second one.
#
# With NETIF (hardware mode) it is that NIC and its peer, both set up by the user. The variables
# NETIF, LOCAL_V4, LOCAL_V6, REMOTE_V4, REMOTE_V6, REMOTE_TYPE (netns or ssh) and REMOTE_ARGS,
# in the environment or in net.config, are those of drivers/net/README.rst in the kernel's
# selftests. A peer behind ssh has the same architecture and libraries, or net_push is of no use.
# shellcheck disable=SC2034,SC2154 # shared with the scripts and lib.sh

NET_NAME=	# the link's: the driver's as in ethtool -i, lo, or one of NET_OVER
NET_DEV=	# the local device
NET_SECOND=	# another one, which gets all that NET_DEV sends and drops it; or none
NET_PEER=	# the device at the other end, and how a command gets into its namespace
NET_AT=()
NET_MARK=	# of pg_undo, while a link is up
NET_BIN=	# where net_push has put the programs, at the other end
NET_PORT=20808	# the peer's default
NET_DRIVERS=(e1000 bnx2)	# of the 2008 reports: tested, or skipped with a reason
NET_TOOLS=(ip tc ethtool nsenter ping)
declare -A NET_NETEM=()

# net_error MESSAGE - of the user's configuration: no test can run
net_error()
{
	ktap_exit_fail_msg "$* (see drivers/net/README.rst of the kernel's selftests)"
}

# net_config - as lib/py/env.py has it, the file comes before the environment
net_config()
{
	local file line syntax n=0

	syntax='^([A-Za-z0-9_]+)[[:space:]]*=[[:space:]]*'
	syntax+='("([^"]*)"|([^"[:space:]#]*))[[:space:]]*(#.*)?$'

	for file in "$PG_HERE"/{,../,../drivers/net/}net.config; do
		[ -r "$file" ] && break
	done
	[ -r "$file" ] || return 0
	while read -r line || [ -n "$line" ]; do
		n=$((n + 1))
		if [[ $line =~ $syntax ]]; then
			case ${BASH_REMATCH[1]} in
			NETIF|LOCAL_V4|LOCAL_V6|REMOTE_V4|REMOTE_V6|REMOTE_TYPE|REMOTE_ARGS)
				declare -gx "${BASH_REMATCH[1]}=${BASH_REMATCH[3]}${BASH_REMATCH[4]}" ;;
			esac
		elif [[ $line != "" && $line != "#"* ]]; then
			net_error "$file, line $n: $line; fix: NAME=VALUE or NAME=\"VALUE\""
		fi
	done <"$file"
}

# net_init ARGS... - before pg_start; ARGS are the script's
net_init()
{
	[ -z "${PIN_GUARD_LIST:-}" ] || return 0
	[ "$(id -u)" = 0 ] || return 0	# which pg_start reports
	net_config
	if [ -n "${NETIF:-}" ]; then
		# Of the machine's network nothing is ours, but mounts are.
		[ -n "${PG_ISOLATED:-}" ] || PG_ISOLATED=1 exec unshare --mount "$0" "$@"
		net_check
	elif [ -z "${PG_ISOLATED:-}" ]; then
		# A driver that comes late has its NICs renamed.
		modprobe -q -a "${NET_DRIVERS[@]}"
		udevadm settle -t 10 2>/dev/null
		# The NICs are taken from this namespace.
		exec {NET_OUTER}</proc/self/ns/net
		export NET_OUTER NET_IDLE
		NET_IDLE=$(net_idle)
		pg_isolate "$@"
	fi
}

# net_links - the links of this run, for net_up
net_links()
{
	local links="lo veth ${NET_DRIVERS[*]}" driver dev
	local -A nics=()

	if [ -n "${NETIF:-}" ]; then
		net_driver "$NETIF"
		return
	fi
	while read -r driver dev; do
		[ -n "$driver" ] || continue
		[ -n "${nics[$driver]:-}" ] && [[ " $links " != *" $driver "* ]] &&
			links+=" $driver"
		nics[$driver]=$dev
	done <<<"${NET_IDLE:-}"
	echo "$links"
}

# net_leave_out - after pg_start: the tests of links for which the kernel has no driver
net_leave_out()
{
	local driver

	for driver in "${NET_DRIVERS[@]}"; do
		modinfo "$driver" >/dev/null 2>&1 || [ -d "/sys/bus/pci/drivers/$driver" ] ||
			pg_leave_out "no CONFIG_${driver^^}" "$driver *"
	done
}

# net_up LINK - or says why not; not for a subshell
net_up()
{
	local tool

	for tool in "${NET_TOOLS[@]}"; do
		command -v "$tool" >/dev/null || { echo "no $tool"; return 1; }
	done
	NET_MARK=${#PG_UNDO[@]}
	NET_NAME=$1
	NET_BIN=
	NET_SECOND=
	NET_NETEM=()
	{
		if [ -n "${NETIF:-}" ]; then
			net_up_hardware
		elif [ "$1" = lo ]; then
			net_up_lo
		elif [[ " ${NET_OVER[*]} " == *" $1 "* ]]; then
			net_namespace && net_up_pair veth && net_over "$1"
		else
			net_namespace && net_up_pair "$1"
		fi && net_reached
	} 2>&1 && return
	net_down
	return 1
}

# net_down - undoes all since net_up: what the script has left to pg_undo meanwhile, too
net_down()
{
	[ -z "$NET_MARK" ] || pg_cleanup "$NET_MARK"
	NET_MARK=
}

net_driver()
{
	local driver=$1

	[[ $(ethtool -i "$1" 2>/dev/null) =~ driver:\ ([^[:space:]]+) ]] && driver=${BASH_REMATCH[1]}
	echo "$driver"
}

net_reached()
{
	local try

	# A NIC may take seconds to find its carrier.
	for try in 1 2 3; do
		ping -nqc 1 -w 5 -I "$NET_DEV" "${REMOTE_V4:-$REMOTE_V6}" >/dev/null 2>&1 && return
	done
	echo "no answer from ${REMOTE_V4:-$REMOTE_V6} by $NET_DEV ($try times)"
	return 1
}

#
# Links of our own
#

net_up_lo()
{
	ip link set lo up || return
	NET_DEV=lo NET_PEER=lo NET_AT=()
	LOCAL_V4=127.0.0.1 REMOTE_V4=127.0.0.1
	LOCAL_V6=::1 REMOTE_V6=::1
	[ -e /proc/net/if_inet6 ] || LOCAL_V6='' REMOTE_V6=''
}

# net_namespace - the other end's; a file descriptor keeps it
net_namespace()
{
	: >"$PG_TMP/netns" && unshare --net="$PG_TMP/netns" true &&
		exec {NET_FD}<"$PG_TMP/netns" && umount -l "$PG_TMP/netns" || return
	pg_undo net_namespace_end
	NET_AT=(nsenter "--net=/proc/self/fd/$NET_FD" --)
	"${NET_AT[@]}" ip link set lo up
}

net_namespace_end()
{
	exec {NET_FD}<&-
	NET_AT=()
}

# net_up_pair LINK - addresses of RFC 5737 and 3849
net_up_pair()
{
	local driver dev nic=()

	LOCAL_V4=192.0.2.1 REMOTE_V4=192.0.2.2
	LOCAL_V6=2001:db8::1 REMOTE_V6=2001:db8::2
	[ -e /proc/net/if_inet6 ] || LOCAL_V6='' REMOTE_V6=''
	if [ "$1" = veth ]; then
		NET_DEV=veth0 NET_PEER=veth1
		ip link add veth0 type veth peer name veth1 netns "/proc/self/fd/$NET_FD" || return
		pg_undo ip link del veth0
	else
		while read -r driver dev; do
			[ "$driver" != "$1" ] || nic+=("$dev")
		done <<<"${NET_IDLE:-}"
		[ ${#nic[@]} -ge 2 ] || { echo "no two idle $1 NICs"; return 1; }
		NET_DEV=${nic[0]} NET_PEER=${nic[1]}
		net_take "$NET_DEV" "/proc/$$/ns/net" &&
			net_take "$NET_PEER" "/proc/self/fd/$NET_FD" "${NET_AT[@]}" || return
	fi
	net_address "$NET_DEV" "$LOCAL_V4" "$LOCAL_V6" &&
		net_address "$NET_PEER" "$REMOTE_V4" "$REMOTE_V6" "${NET_AT[@]}"
}

# net_address DEVICE V4 V6 COMMAND... - COMMAND gets into its namespace
net_address()
{
	"${@:4}" ip -batch - <<-END
		addr add $2/24 dev $1
		${3:+addr add $3/64 dev $1 nodad}
		link set $1 up
	END
}

# net_idle - driver and name of each physical NIC that nobody uses: it is down and has no address,
# no master and nothing on top
net_idle()
{
	local links addresses index name rest dev

	links=$(ip -o -d link) && addresses=$(ip -o addr) || return
	while read -r index name rest; do
		dev=${name%:}
		case $rest in *[\<,]UP[,\>]* | *" master "*) continue ;; esac
		case $links in *"@$dev:"*) continue ;; esac
		case $addresses in *"$index $dev "*) continue ;; esac
		[[ $rest != *" parentbus "* ]] || echo "$(net_driver "$dev") $dev"
	done <<<"$links"
}

# net_take NIC NAMESPACE COMMAND... - and back at the end; if we are killed, the kernel does that
net_take()
{
	nsenter "--net=/proc/self/fd/$NET_OUTER" -- ip link set "$1" netns "$2" &&
		pg_undo "${@:3}" ip link set "$1" netns "/proc/self/fd/$NET_OUTER"
}

#
# What is made of veth: LINK by net_over_LINK, which may go on to devices and addresses of its own
#

NET_OVER=(esp macsec vxlan bridge mirred seg6)
NET_KEY=000102030405060708090a0b0c0d0e0f

# net_over LINK - or says what that needs
net_over()
{
	local said=$PG_TMP/net_over

	"net_over_$1" >"$said" 2>&1 && return
	echo "no $1, which needs $NET_NEEDS: $(head -n 1 "$said")"
	return 1
}

# ESP in transport mode: a packet is encrypted before it gets to a device.
net_over_esp()
{
	NET_NEEDS="CONFIG_XFRM_USER, CONFIG_INET_ESP and CONFIG_INET6_ESP"
	pg_undo ip xfrm policy flush
	pg_undo ip xfrm state flush
	net_esp local "$LOCAL_V4" "$REMOTE_V4" && net_esp remote "$REMOTE_V4" "$LOCAL_V4" || return
	[ -n "$LOCAL_V6" ] || return 0
	net_esp local "$LOCAL_V6" "$REMOTE_V6" && net_esp remote "$REMOTE_V6" "$LOCAL_V6"
}

# net_esp local|remote FROM TO - what that end sends; anything that is not encrypted is dropped
net_esp()
{
	local end dir

	for end in local remote; do
		[ $end = "$1" ] && dir=out || dir=in
		net_on $end ip -batch - <<-END || return
			xfrm state add src $2 dst $3 proto esp spi 0x1000 mode transport \
				aead rfc4106(gcm(aes)) 0x${NET_KEY}00000000 128
			xfrm policy add src $2 dst $3 dir $dir \
				tmpl src $2 dst $3 proto esp mode transport
		END
	done
}

# A device that encrypts
net_over_macsec()
{
	local here=02:00:00:00:00:01 there=02:00:00:00:00:02

	NET_NEEDS=CONFIG_MACSEC
	net_macsec local veth0 $here $there && net_macsec remote veth1 $there $here &&
		net_overlay macsec0
}

# net_macsec local|remote DEVICE ADDRESS PEER
net_macsec()
{
	net_on "$1" ip -batch - <<-END
		link set $2 address $3
		link add link $2 macsec0 type macsec encrypt on
		macsec add macsec0 tx sa 0 pn 1 on key 00 $NET_KEY
		macsec add macsec0 rx port 1 address $4
		macsec add macsec0 rx port 1 address $4 sa 0 pn 1 on key 00 $NET_KEY
	END
}

# A tunnel
net_over_vxlan()
{
	local vxlan="link add vxlan0 type vxlan id 1 dstport 4789"

	NET_NEEDS=CONFIG_VXLAN
	# shellcheck disable=SC2086 # words
	ip $vxlan dev veth0 local "$LOCAL_V4" remote "$REMOTE_V4" &&
		net_remote ip $vxlan dev veth1 local "$REMOTE_V4" remote "$LOCAL_V4" &&
		net_overlay vxlan0
}

# A bridge that does not learn, and floods all
net_over_bridge()
{
	NET_NEEDS="CONFIG_BRIDGE and CONFIG_DUMMY"
	net_second && pg_undo ip link del br0 && ip -batch - <<-END || return
		link add br0 type bridge
		addr flush dev veth0
		link set veth0 master br0
		link set veth0 type bridge_slave learning off
		link set $NET_SECOND master br0
	END
	NET_DEV=br0
	net_address br0 "$LOCAL_V4" "$LOCAL_V6"
}

# A clone of each packet
net_over_mirred()
{
	NET_NEEDS="CONFIG_NET_ACT_MIRRED, CONFIG_NET_CLS_MATCHALL, CONFIG_NET_SCH_INGRESS and CONFIG_DUMMY"
	net_second && tc -batch - <<-END
		qdisc add dev veth0 clsact
		filter add dev veth0 egress matchall action mirred egress mirror dev $NET_SECOND
	END
}

# An IPv6 extension header, which the route inserts: a segment that is the other end, too. Of a packet
# to be cut, qdisc_pkt_len_segs_init() (net/core/dev.c) of Linux 7.3 takes that header for TCP's, the
# fifth byte of the address for its length, and drops the packet if that is less than 5 words.
net_over_seg6()
{
	local segment=2001:db8::3 conf

	NET_NEEDS=CONFIG_IPV6_SEG6_LWTUNNEL
	LOCAL_V4='' REMOTE_V4='' REMOTE_V6=2001:db8:5000::2
	net_remote ip addr add $REMOTE_V6/128 dev veth1 nodad &&
		net_remote ip addr add $segment/64 dev veth1 nodad &&
		ip route add "$REMOTE_V6" encap seg6 mode inline segs $segment dev veth0 || return
	for conf in all veth1; do
		net_remote sysctl -qw net.ipv6.conf.$conf.seg6_enabled=1 || return
	done
}

# net_overlay DEVICE - on top of both ends, with addresses of RFC 5737 and 3849, too
net_overlay()
{
	NET_DEV=$1 NET_PEER=$1
	LOCAL_V4=198.51.100.1 REMOTE_V4=198.51.100.2
	LOCAL_V6=${LOCAL_V6:+2001:db8:1::1} REMOTE_V6=${REMOTE_V6:+2001:db8:1::2}
	net_address "$1" "$LOCAL_V4" "$LOCAL_V6" &&
		net_address "$1" "$REMOTE_V4" "$REMOTE_V6" "${NET_AT[@]}"
}

net_second()
{
	NET_SECOND=dummy0
	ip link add $NET_SECOND type dummy && pg_undo ip link del $NET_SECOND &&
		ip link set $NET_SECOND up
}

#
# Hardware mode
#

# net_check - the user's variables, before anything is done with them
net_check()
{
	local v l r dev

	dev=$(ip -o link | awk -F'[:@] *' '$2 != "lo" { print $2 }' | xargs)
	ip link show dev "$NETIF" >/dev/null 2>&1 ||
		net_error "NETIF=$NETIF: no such device; fix: NETIF= one of $dev"
	[ -n "$(ip -o link show dev "$NETIF" up)" ] ||
		net_error "NETIF=$NETIF is down; fix: ip link set $NETIF up"

	[ -n "${REMOTE_ARGS:-}" ] ||
		net_error "REMOTE_ARGS is missing; fix: the name of the namespace, or ssh's host"
	case ${REMOTE_TYPE:-} in
	netns)
		[ -e "/run/netns/$REMOTE_ARGS" ] ||
			net_error "REMOTE_ARGS=$REMOTE_ARGS: no such namespace; fix: one of" \
				"$(ip netns | awk '{ print $1 }' | xargs), or ip netns add $REMOTE_ARGS"
		# Held open, for a script may hide /run.
		exec {NET_FD}<"/run/netns/$REMOTE_ARGS"
		NET_AT=(nsenter "--net=/proc/self/fd/$NET_FD" --)
		;;
	ssh)
		ssh -q -o BatchMode=yes -o ConnectTimeout=20 "$REMOTE_ARGS" true </dev/null ||
			net_error "REMOTE_ARGS=$REMOTE_ARGS cannot be reached; fix: what makes" \
				"'ssh $REMOTE_ARGS true' work, without a password"
		;;
	"")
		net_error "REMOTE_TYPE is missing; fix: REMOTE_TYPE=netns or REMOTE_TYPE=ssh"
		;;
	*)
		net_error "REMOTE_TYPE=${REMOTE_TYPE:-}; fix: REMOTE_TYPE=netns or REMOTE_TYPE=ssh"
		;;
	esac

	NET_PEER=
	for v in 4 6; do
		l=LOCAL_V$v
		r=REMOTE_V$v
		declare -g "$l=${!l:-}" "$r=${!r:-}"
		[ -n "${!l}${!r}" ] || continue
		[ -n "${!l}" ] || net_error "$l is missing; fix: set it, or leave out $r as well"
		[ -n "${!r}" ] || net_error "$r is missing; fix: set it, or leave out $l as well"
		[ "$(net_address_device "$l" "$v")" = "$NETIF" ] ||
			net_error "$l=${!l} is no address of $NETIF; fix: one of" \
				"$(ip -o "-$v" addr show dev "$NETIF" | awk '{ print $4 }' |
				   sed 's,/.*,,' | xargs)"
		dev=$(net_address_device "$r" "$v" net_remote)
		[ -n "$dev" ] ||
			net_error "$r=${!r} is no address in $REMOTE_TYPE $REMOTE_ARGS; fix: one of" \
				"$(net_remote ip -o "-$v" addr | awk '{ print $4 }' |
				   sed 's,/.*,,' | xargs)"
		[ "${NET_PEER:-$dev}" = "$dev" ] ||
			net_error "REMOTE_V4 and REMOTE_V6 are of two devices, $NET_PEER and $dev"
		NET_PEER=$dev
	done
	[ -n "$NET_PEER" ] ||
		net_error "LOCAL_V4 and REMOTE_V4 are missing; fix: set them, or LOCAL_V6 and REMOTE_V6"
}

# net_address_device VARIABLE 4|6 COMMAND... - that has the address
net_address_device()
{
	[[ ${!1} != */* ]] || return
	"${@:3}" ip -o "-$2" addr show to "${!1}" 2>/dev/null | awk 'NR == 1 { print $2 }'
}

net_up_hardware()
{
	local end dev

	NET_DEV=$NETIF
	# We could not bring back a qdisc that somebody has set up; a default one has no handle.
	for end in local remote; do
		dev=$NET_DEV
		[ $end = local ] || dev=$NET_PEER
		net_on $end tc qdisc show dev "$dev" | grep -v ' 0: ' | grep ' root ' || continue
		echo "is in our way; fix ($end): tc qdisc del dev $dev root"
		return 1
	done
}

#
# The other end
#

net_is_ssh()
{
	[ -n "${NETIF:-}" ] && [ "$REMOTE_TYPE" = ssh ]
}

# net_remote COMMAND... - at the other end. Killing it need not end the command, over ssh least:
# a server should end by itself, with its connection or its standard input
net_remote()
{
	local quoted='' arg

	if net_is_ssh; then
		# For any shell, so no printf %q.
		for arg in "$@"; do
			quoted+="'${arg//\'/\'\\\'\'}' "
		done
		ssh -q "$REMOTE_ARGS" "$quoted"
	else
		"${NET_AT[@]}" "$@"
	fi
}

# net_on local|remote COMMAND...
net_on()
{
	if [ "$1" = remote ]; then
		net_remote "${@:2}"
	else
		"${@:2}"
	fi
}

# net_push FILE... - programs for the other end, into $NET_BIN there; till net_down
net_push()
{
	if ! net_is_ssh; then
		NET_BIN=$PG_TMP/bin
		mkdir -p "$NET_BIN" && cp -p "$@" "$NET_BIN/"
		return
	fi
	if [ -z "$NET_BIN" ]; then
		NET_BIN=$(net_remote mktemp -d) && pg_undo net_remote rm -rf "$NET_BIN" || return
	fi
	scp -qp "$@" "$REMOTE_ARGS:$NET_BIN/"
}

# net_peer - the program at the other end that the tests talk to, till net_down; or says why not
net_peer()
{
	local stdin=$PG_TMP/peer.stdin

	net_push "$PG_HERE/peer" || { echo "no peer at the other end"; return 1; }
	rm -f "$stdin" && mkfifo "$stdin" || return
	net_remote "$NET_BIN/peer" $NET_PORT <"$stdin" >"$PG_TMP/peer.log" 2>&1 &
	NET_PEER_PID=$!
	# It ends when its input does.
	exec {NET_PEER_STDIN}>"$stdin"
	pg_undo net_peer_end
	pg_wait 20 net_peer_listens && return
	echo "the peer does not answer: $(cat "$PG_TMP/peer.log")"
	return 1
}

net_peer_listens()
{
	(: <>"/dev/tcp/${REMOTE_V4:-$REMOTE_V6}/$NET_PORT") 2>/dev/null
}

net_peer_end()
{
	exec {NET_PEER_STDIN}>&-
	wait "$NET_PEER_PID"
}

#
# What may happen on the way
#

# net_netem local|remote off|ARGUMENT... - on the egress of that end. Of lo there is one only.
net_netem()
{
	local end=$1

	shift
	[ "$NET_DEV" != lo ] || end=local
	if [ "$1" = off ]; then
		unset "NET_NETEM[$end]"
		net_qdisc "$end"
		return
	fi
	[[ -v NET_NETEM[$end] ]] || pg_undo net_netem "$end" off
	NET_NETEM[$end]=$*
	net_qdisc "$end" "$@"
}

# net_qdisc local|remote [NETEM ARGUMENT...]
net_qdisc()
{
	local end=$1 dev=$NET_DEV handle

	shift
	[ "$end" = local ] || dev=$NET_PEER
	if [ $# = 0 ]; then
		net_on "$end" tc qdisc del dev "$dev" root 2>/dev/null
		return 0
	fi
	# With a handle of its own it is a new one. The old one would keep arguments.
	printf -v handle '%x:' $((0x7000 + RANDOM % 0xfff))
	net_on "$end" tc qdisc replace dev "$dev" root handle "$handle" netem limit 100000 "$@"
}

# net_cut - nothing gets through any more, in neither direction. With a peer behind ssh, whose
# connection may be on this very link, only what we send is lost: the other end is not asked, but
# gets no answer to what it sends. net_remote has to wait for net_mend then.
net_cut()
{
	local end

	pg_undo net_mend
	for end in $(net_ends); do
		net_qdisc "$end" loss 100% || return
	done
}

net_mend()
{
	local end

	for end in $(net_ends); do
		# shellcheck disable=SC2086 # the arguments of net_netem
		net_qdisc "$end" ${NET_NETEM[$end]:-}
	done
}

# net_neighbours permanent|stale - what both ends know of each other. A delay delays neighbour
# discovery, too, which gives up after three seconds, and drops the datagram that waits for it.
net_neighbours()
{
	local neighbours neighbour end to is mac rest

	[ "$NET_DEV" != lo ] || return 0
	# So that they know each other.
	[ "$1" != permanent ] || for to in $REMOTE_V4 $REMOTE_V6; do
		ping -c 1 -W 5 "$to" >/dev/null
	done
	mapfile -t neighbours < <(ip neigh show dev "$NET_DEV" | sed 's/^/local /'
				  net_remote ip neigh show dev "$NET_PEER" | sed 's/^/remote /')
	for neighbour in "${neighbours[@]}"; do
		read -r end to is mac rest <<<"$neighbour"
		[ "$is" = lladdr ] || continue
		if [ "$end" = local ]; then
			ip neigh change "$to" lladdr "$mac" dev "$NET_DEV" nud "$1"
		else
			net_remote ip neigh change "$to" lladdr "$mac" dev "$NET_PEER" nud "$1"
		fi
	done
}

# net_ends - where net_cut cuts
net_ends()
{
	if [ "$NET_DEV" = lo ] || net_is_ssh; then
		echo local
	else
		echo remote local
	fi
}

# net_feature local|remote NAME on|off - and back at net_down; fails if the NIC cannot
net_feature()
{
	local dev=$NET_DEV feature=$2 before after name value note undo=() try

	[ "$1" = local ] || dev=$NET_PEER
	before=$(net_on "$1" ethtool -k "$dev") &&
		net_on "$1" ethtool -K "$dev" "$2" "$3" >/dev/null 2>&1 &&
		after=$'\n'$(net_on "$1" ethtool -k "$dev")$'\n' || return
	# One feature may take others along.
	while read -r name value note; do
		[[ $note == "[fixed]"* || $after == *[[:space:]]"$name $value"[[:space:]]* ]] ||
			undo+=("${name%:}" "$value")
	done <<<"$before"
	[ ${#undo[@]} = 0 ] || pg_undo net_on "$1" ethtool -K "$dev" "${undo[@]}"
	# ethtool may say yes and do nothing.
	case $feature in
	rx|tx) feature+=-checksumming ;;
	sg) feature=scatter-gather ;;
	tso) feature=tcp-segmentation-offload ;;
	gso) feature=generic-segmentation-offload ;;
	gro) feature=generic-receive-offload ;;
	esac
	[[ $after == *[[:space:]]"$feature: $3"[[:space:]]* ]] || return
	# Some drivers start the NIC anew.
	for try in {1..20}; do
		[[ $(net_on "$1" ip link show dev "$dev") != *LOWER_UP* ]] || return 0
		sleep 0.5
	done
	echo "$dev has no carrier since $2 $3 ($try times)"
	return 1
}
