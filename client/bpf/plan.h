/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The plan: constants that the loader writes, client/src/attach/constants.rs, before the verifier sees the
 * programs.
 */

#define MAX_PROBES 16
#define MAX_CONDITIONS 4
/* An offset that the plan does not have. */
#define ABSENT 0xffffffff

/* Register (in the order of the instruction encoding), or what is in memory there; plus `add`. */
struct location {
	__u32 reg;
	__u32 in_memory;
	__s32 deref;
	__s32 add;
};

struct condition {
	struct location value;
	__u64 mask;
	__u64 equals;
};

struct probe {
	__u32 event;
	__u32 conditions;
	struct location rule;
	struct location pkt;
	struct location base_chain;
	struct condition when[MAX_CONDITIONS];
};

const volatile struct probe PROBES[MAX_PROBES] = {};

const volatile __u32 RULE_HANDLE_OFFSET = 0;
const volatile __u32 RULE_HANDLE_SHIFT = 0;
const volatile __u64 RULE_HANDLE_MASK = 0;

#define OFFSET(name) const volatile __u32 name = ABSENT
OFFSET(PKTINFO_SKB);
OFFSET(PKTINFO_STATE);
OFFSET(STATE_HOOK);
OFFSET(STATE_PF);
OFFSET(STATE_IN);
OFFSET(STATE_OUT);
OFFSET(STATE_NET);
OFFSET(CHAIN_TABLE);
OFFSET(CHAIN_NAME);
OFFSET(CHAIN_HANDLE);
OFFSET(TABLE_NAME);
OFFSET(TABLE_HANDLE);
OFFSET(TABLE_FAMILY);
OFFSET(SKB_LEN);
OFFSET(SKB_DATA_LEN);
OFFSET(SKB_MARK);
OFFSET(SKB_PROTOCOL);
OFFSET(SKB_HEAD);
OFFSET(SKB_DATA);
OFFSET(SKB_MAC_HEADER);
OFFSET(SKB_NETWORK_HEADER);
OFFSET(DEV_IFINDEX);
OFFSET(DEV_NAME);
OFFSET(NET_INUM);
OFFSET(POLICY_TO_CHAIN);
