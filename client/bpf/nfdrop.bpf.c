// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * One kprobe program per probe of an attach plan, and a witness that counts nftables' drops
 * independently of them.
 *
 * No kernel type is used: everything that differs between kernel builds comes from the plan, as
 * constants that the loader writes into .rodata before the verifier sees the programs. The verifier
 * knows them then, and removes what a plan does not need.
 *
 * A program's time is spent on dropped packets only, except at sites with conditions, which are
 * tested first.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <asm/ptrace.h>
#include <bpf/bpf_helpers.h>

#define MAX_PACKET 1024
#define NAME_SIZE 64
#define DEVICE_NAME_SIZE 16

enum { RULE_DROP, POLICY_DROP, EVENTS_KINDS };

#include "plan.h"

/* --- what is asked for -------------------------------------------------- */

/* Every drop becomes an event, with so many bytes of its packet. */
const volatile __u32 EVENTS_ON = 0;
const volatile __u32 PACKET_SIZE = 0;
/* Events go into STREAM instead of EVENTS. */
const volatile __u32 STREAM_ON = 0;
/* One of so many. */
const volatile __u32 SAMPLE = 1;
/* Every drop is counted by what dropped it. */
const volatile __u32 COUNTS_ON = 0;
/* Only drops in these network namespaces are looked at; 0: in all. */
const volatile __u32 ONLY_NETNS[2] = {};
/* SKB_DROP_REASON_NETFILTER_DROP, which has another number in every release. */
const volatile __u32 NETFILTER_DROP = ABSENT;

/* --- what is told ------------------------------------------------------- */

/* Read by client/src/attach/record.rs; its first bytes are those of the packet's. */
enum {
	HAS_HOOK = 1 << 0,
	HAS_NETNS = 1 << 1,
	HAS_MARK = 1 << 2,
	HAS_LEN = 1 << 3,
	HAS_IIF = 1 << 4,
	HAS_OIF = 1 << 5,
};

struct event {
	__u64 time; /* CLOCK_MONOTONIC */
	__u64 rule_handle;
	__u64 table_handle;
	__u32 netns;
	__u32 mark;
	__u32 len;
	__u32 iif;
	__u32 oif;
	__u16 captured; /* bytes of packet[] */
	__u16 network;	/* where in them the network header is */
	__u16 protocol; /* big-endian */
	__u8 event;
	__u8 family;
	__u8 protocol_family;
	__u8 hook;
	__u16 has;
	char iif_name[DEVICE_NAME_SIZE];
	char oif_name[DEVICE_NAME_SIZE];
	char table[NAME_SIZE];
	char chain[NAME_SIZE];
	__u8 packet[];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} EVENTS SEC(".maps");

/*
 * A buffer of perf's for every CPU, written without a lock: for kernels whose ring has one that sleeps
 * (client/src/attach/events.rs).
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} STREAM SEC(".maps");

/* Where an event is made that goes there: too large for the stack, and no program interrupts another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[sizeof(struct event) + MAX_PACKET]);
} SCRATCH SEC(".maps");

struct counters {
	__u64 drops[EVENTS_KINDS];
	__u64 lost;	 /* events that found the ring full */
	__u64 uncounted; /* drops that found the table of counts full */
	__u64 witnessed; /* packets freed as dropped by netfilter */
	__u64 left_out;	 /* drops that SAMPLE leaves out */
	__u64 compared;	 /* drops that the kernel always frees as dropped by netfilter */
};

/*
 * Per CPU, and without atomics: the kernel runs no program of a kprobe inside another's, and counts
 * what it leaves out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} COUNTERS SEC(".maps");

struct count_key {
	__u64 table_handle;
	__u64 handle; /* the rule's; of a policy drop the base chain's */
	__u64 table;  /* its address, where its handle is not known: handles are unique in tables */
	__u32 netns;
	__u8 event;
	__u8 family;
	__u16 zero;
};

struct count {
	__u64 packets;
	__u64 bytes;
	char table[NAME_SIZE];
	char chain[NAME_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct count_key);
	__type(value, struct count);
} COUNTS SEC(".maps");

/*
 * What a right plan never sees: the first of it on each CPU. Read by client/src/attach/contradiction.rs.
 */
enum { NO_KERNEL_ADDRESS = 1, NO_FAMILY, NO_HOOK, ACCEPTING_POLICY };
enum { OF_PKT, OF_SKB, OF_STATE, OF_CHAIN, OF_TABLE, OF_RULE };

struct contradiction {
	__u64 kind;	 /* 0: none */
	__u64 probe;	 /* which */
	__u64 of;	 /* of which pointer */
	__u64 value;	 /* the address, family, hook or policy */
	__u64 suspected; /* since when a policy does not fit, CLOCK_MONOTONIC */
	char table[NAME_SIZE];
	char chain[NAME_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct contradiction);
} CONTRADICTED SEC(".maps");

/* --- reading ------------------------------------------------------------ */

#include ARCH_HEADER

#define READ(to, address) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)(address))

static __always_inline __u64 pointer(__u64 address)
{
	__u64 value = 0;

	READ(value, address);
	return value;
}

/*
 * Not inlined: before the kernel removes what a plan does not need it looks at all instructions, from
 * 7.0 on for longer than at the rest of their verification, and the registers would be half of them.
 */
static __noinline __u64 at(struct pt_regs *ctx, const volatile struct location *place)
{
	__u64 value = reg(ctx, place->reg);

	/* What cannot be read is no address. */
	if (place->in_memory && READ(value, value + (__s64)place->deref))
		return 0;
	return value + (__s64)place->add;
}

/* What cannot be read makes a condition false (db/src/plan.rs), which adds nothing to a value. */
static __noinline int holds(struct pt_regs *ctx, const volatile struct condition *when)
{
	__u64 value = reg(ctx, when->value.reg);

	if (when->value.in_memory && READ(value, value + (__s64)when->value.deref))
		return 0;
	return (value & when->mask) == when->equals;
}

static __always_inline void device(__u64 state, __u32 member, __u32 *index, char *name, __u16 *has,
				   __u16 bit)
{
	__u64 dev;

	if (PKTINFO_STATE == ABSENT || member == ABSENT || DEV_IFINDEX == ABSENT || DEV_NAME == ABSENT)
		return;
	dev = pointer(state + member);
	if (!dev)
		return;
	READ(*index, dev + DEV_IFINDEX);
	bpf_probe_read_kernel(name, DEVICE_NAME_SIZE, (const void *)(dev + DEV_NAME));
	*has |= bit;
}

/* Link layer's header, where there is one of Ethernet, and all that follows in the linear part. */
static __always_inline void packet(struct event *event, __u64 skb)
{
	__u64 head, data, start, size;
	__u32 len = 0, data_len = 0;
	__u16 network = 0, mac = 0xffff;

	if (PKTINFO_SKB == ABSENT || SKB_HEAD == ABSENT || SKB_DATA == ABSENT || SKB_NETWORK_HEADER == ABSENT ||
	    SKB_LEN == ABSENT || SKB_DATA_LEN == ABSENT)
		return;
	head = pointer(skb + SKB_HEAD);
	data = pointer(skb + SKB_DATA);
	READ(len, skb + SKB_LEN);
	READ(data_len, skb + SKB_DATA_LEN);
	READ(network, skb + SKB_NETWORK_HEADER);
	if (SKB_MAC_HEADER != ABSENT)
		READ(mac, skb + SKB_MAC_HEADER);
	if (SKB_PROTOCOL != ABSENT)
		READ(event->protocol, skb + SKB_PROTOCOL);

	start = head + network;
	/* With an 802.1Q tag that no device has taken off it has 18 bytes. */
	if (mac != 0xffff && (network - mac == 14 || network - mac == 18)) {
		event->network = network - mac;
		start = head + mac;
	}
	size = data + (len - data_len) - start;
	/* Headers outside of the linear part are not read. */
	if ((__s64)size < 0)
		size = 0;
	/* len counts from data, which some hooks have before the network header. */
	event->len = len - (__u32)(head + network - data);
	event->has |= HAS_LEN;
	if (size > PACKET_SIZE)
		size = PACKET_SIZE;
	asm volatile("" : "+r"(size));
	if (size > MAX_PACKET)
		size = 0;
	if (!bpf_probe_read_kernel(event->packet, size, (const void *)start))
		event->captured = size;
}

static __always_inline void names(__u64 chain, __u64 table, char *table_name, char *chain_name)
{
	if (CHAIN_NAME != ABSENT)
		bpf_probe_read_kernel_str(chain_name, NAME_SIZE,
					  (const void *)pointer(chain + CHAIN_NAME));
	if (TABLE_NAME != ABSENT)
		bpf_probe_read_kernel_str(table_name, NAME_SIZE,
					  (const void *)pointer(table + TABLE_NAME));
}

/* --- contradictions ----------------------------------------------------- */

/* The families that tables and hooks may have (include/uapi/linux/netfilter.h): inet, ip, arp, netdev, bridge, ip6. */
#define FAMILIES (1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 10)
#define FAMILY_BRIDGE 7
/* NF_INET_INGRESS and NF_BR_BROUTING; netdev and arp have fewer. */
#define LAST_HOOK 5
/*
 * Between the function's own look at the policy and the probe another CPU may set it to accept, which all
 * CPUs that are just there see within microseconds. What is seen a millisecond later, and before
 * long, has another cause.
 */
#define SUSPECT_AFTER 1000000ULL
#define SUSPECT_UNTIL 10000000000ULL

/* With 4 or 5 levels of page tables. */
static __always_inline int is_kernel_address(__u64 value)
{
	return value >> 56 == 0xff;
}

static __always_inline int is_family(__u64 family)
{
	return family < 16 && (FAMILIES >> family & 1);
}

/* Notes it; what the probe saw is no drop to be reported. */
static __noinline int contradict(__u64 kind, __u64 probe, __u64 of, __u64 value)
{
	__u32 zero = 0;
	struct contradiction *found = bpf_map_lookup_elem(&CONTRADICTED, &zero);

	if (found && !found->kind) {
		found->probe = probe;
		found->of = of;
		found->value = value;
		found->kind = kind;
	}
	return 0;
}

static __noinline int contradict_policy(__u64 probe, __u64 policy, __u64 chain, __u64 table)
{
	__u32 zero = 0;
	__u64 now = bpf_ktime_get_ns();
	struct contradiction *found = bpf_map_lookup_elem(&CONTRADICTED, &zero);

	if (!found || found->kind)
		return 0;
	if (!found->suspected || now - found->suspected > SUSPECT_UNTIL) {
		found->suspected = now;
		return 0;
	}
	if (now - found->suspected < SUSPECT_AFTER)
		return 0;
	names(chain, table, found->table, found->chain);
	return contradict(ACCEPTING_POLICY, probe, OF_CHAIN, policy);
}

/* --- the programs ------------------------------------------------------- */

static __always_inline void count(const struct count_key *key, __u64 chain, __u64 table, __u32 len,
				  struct counters *counters)
{
	struct count *found = bpf_map_lookup_elem(&COUNTS, key);

	if (!found) {
		struct count fresh = {};

		names(chain, table, fresh.table, fresh.chain);
		bpf_map_update_elem(&COUNTS, key, &fresh, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&COUNTS, key);
		if (!found) {
			counters->uncounted++;
			return;
		}
	}
	__sync_fetch_and_add(&found->packets, 1);
	__sync_fetch_and_add(&found->bytes, len);
}

static __noinline int seen(struct pt_regs *ctx, __u32 index)
{
	const volatile struct probe *probe = &PROBES[index];
	struct count_key key = {};
	struct counters *counters;
	struct event *event;
	__u64 pkt, skb = 0, state = 0, chain, table = 0, drops;
	__u32 zero = 0, netns = 0;
	int wants_event;
	__u16 family = 0;
	__u8 policy = 0, hook = 0, pf = 0;

	if (probe->conditions > 0 && !holds(ctx, &probe->when[0]))
		return 0;
	if (probe->conditions > 1 && !holds(ctx, &probe->when[1]))
		return 0;
	if (probe->conditions > 2 && !holds(ctx, &probe->when[2]))
		return 0;
	if (probe->conditions > 3 && !holds(ctx, &probe->when[3]))
		return 0;

	pkt = at(ctx, &probe->pkt);
	if (!is_kernel_address(pkt))
		return contradict(NO_KERNEL_ADDRESS, index, OF_PKT, pkt);
	chain = at(ctx, &probe->base_chain);
	if (!is_kernel_address(chain))
		return contradict(NO_KERNEL_ADDRESS, index, OF_CHAIN, chain);
	if (PKTINFO_SKB != ABSENT) {
		skb = pointer(pkt + PKTINFO_SKB);
		if (!is_kernel_address(skb))
			return contradict(NO_KERNEL_ADDRESS, index, OF_SKB, skb);
	}
	if (PKTINFO_STATE != ABSENT) {
		state = pointer(pkt + PKTINFO_STATE);
		if (!is_kernel_address(state))
			return contradict(NO_KERNEL_ADDRESS, index, OF_STATE, state);
	}
	if (CHAIN_TABLE != ABSENT) {
		table = pointer(chain + CHAIN_TABLE);
		if (!is_kernel_address(table))
			return contradict(NO_KERNEL_ADDRESS, index, OF_TABLE, table);
	}
	if (TABLE_HANDLE != ABSENT)
		READ(key.table_handle, table + TABLE_HANDLE);
	else
		key.table = table;
	/* Six bits, the rest flags, before 5.13. */
	if (TABLE_FAMILY != ABSENT)
		READ(family, table + TABLE_FAMILY);
	key.family = family & 0x3f;
	if (TABLE_FAMILY != ABSENT && !is_family(key.family))
		return contradict(NO_FAMILY, index, OF_TABLE, key.family);
	if (PKTINFO_STATE != ABSENT && STATE_HOOK != ABSENT && STATE_PF != ABSENT) {
		/* A u32 before 5.15, of which this is the low byte. */
		READ(hook, state + STATE_HOOK);
		READ(pf, state + STATE_PF);
		if (hook > LAST_HOOK)
			return contradict(NO_HOOK, index, OF_STATE, hook);
		if (!is_family(pf))
			return contradict(NO_FAMILY, index, OF_STATE, pf);
	}
	if (probe->event == POLICY_DROP && POLICY_TO_CHAIN != ABSENT) {
		READ(policy, chain - POLICY_TO_CHAIN);
		if (policy)
			return contradict_policy(index, policy, chain, table);
	}
	key.event = probe->event;
	if (probe->event == RULE_DROP) {
		__u64 rule = at(ctx, &probe->rule);
		__u64 word;

		if (!is_kernel_address(rule) || READ(word, rule + RULE_HANDLE_OFFSET))
			return contradict(NO_KERNEL_ADDRESS, index, OF_RULE, rule);
		key.handle = word >> RULE_HANDLE_SHIFT & RULE_HANDLE_MASK;
	} else if (COUNTS_ON && CHAIN_HANDLE != ABSENT) {
		READ(key.handle, chain + CHAIN_HANDLE);
	}
	/* Before anything is counted: the drops of others may be a flood. */
	if (ONLY_NETNS[0] && PKTINFO_STATE != ABSENT && STATE_NET != ABSENT && NET_INUM != ABSENT) {
		READ(netns, pointer(state + STATE_NET) + NET_INUM);
		if (netns != ONLY_NETNS[0] && netns != ONLY_NETNS[1])
			return 0;
	}
	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (!counters)
		return 0;
	if (probe->event == RULE_DROP)
		drops = ++counters->drops[RULE_DROP];
	else
		drops = ++counters->drops[POLICY_DROP];
	/* The bridge's first hook frees without a reason (net/bridge/br_input.c). */
	if (key.family != FAMILY_BRIDGE)
		counters->compared++;
	wants_event = EVENTS_ON;
	if (EVENTS_ON && SAMPLE > 1 && drops % SAMPLE) {
		counters->left_out++;
		wants_event = 0;
	}
	if (!wants_event && !COUNTS_ON)
		return 0;

	if (PKTINFO_STATE != ABSENT && STATE_NET != ABSENT && NET_INUM != ABSENT)
		READ(netns, pointer(state + STATE_NET) + NET_INUM);
	key.netns = netns;

	if (COUNTS_ON) {
		__u32 len = 0;

		if (PKTINFO_SKB != ABSENT && SKB_LEN != ABSENT)
			READ(len, skb + SKB_LEN);
		count(&key, chain, table, len, counters);
	}
	if (!wants_event)
		return 0;

	if (STREAM_ON)
		event = bpf_map_lookup_elem(&SCRATCH, &zero);
	else
		event = bpf_ringbuf_reserve(&EVENTS, sizeof(*event) + PACKET_SIZE, 0);
	if (!event) {
		counters->lost++;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->rule_handle = key.handle;
	event->table_handle = key.table_handle;
	event->event = key.event;
	event->family = key.family;
	event->netns = netns;
	if (PKTINFO_STATE != ABSENT && STATE_NET != ABSENT && NET_INUM != ABSENT)
		event->has |= HAS_NETNS;
	if (PKTINFO_STATE != ABSENT && STATE_HOOK != ABSENT && STATE_PF != ABSENT) {
		event->hook = hook;
		event->protocol_family = pf;
		event->has |= HAS_HOOK;
	}
	device(state, STATE_IN, &event->iif, event->iif_name, &event->has, HAS_IIF);
	device(state, STATE_OUT, &event->oif, event->oif_name, &event->has, HAS_OIF);
	if (PKTINFO_SKB != ABSENT && SKB_MARK != ABSENT) {
		READ(event->mark, skb + SKB_MARK);
		event->has |= HAS_MARK;
	}
	names(chain, table, event->table, event->chain);
	packet(event, skb);
	if (!STREAM_ON)
		bpf_ringbuf_submit(event, 0);
	else if (bpf_perf_event_output(ctx, &STREAM, BPF_F_CURRENT_CPU, event, sizeof(*event) + PACKET_SIZE))
		counters->lost++;
	return 0;
}

#define PROBE(index)                                                                               \
	SEC("kprobe")                                                                              \
	int probe_##index(struct pt_regs *ctx)                                                     \
	{                                                                                          \
		return seen(ctx, index);                                                           \
	}

PROBE(0)
PROBE(1)
PROBE(2)
PROBE(3)
PROBE(4)
PROBE(5)
PROBE(6)
PROBE(7)
PROBE(8)
PROBE(9)
PROBE(10)
PROBE(11)
PROBE(12)
PROBE(13)
PROBE(14)
PROBE(15)

/* (skb, location, reason) from 5.17 on. */
SEC("raw_tracepoint")
int witness(struct bpf_raw_tracepoint_args *ctx)
{
	struct counters *counters;
	__u32 zero = 0;

	if ((__u32)ctx->args[2] != NETFILTER_DROP)
		return 0;
	counters = bpf_map_lookup_elem(&COUNTERS, &zero);
	if (counters)
		counters->witnessed++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
