//! Every constant of the kernel's interface that is used here, once: `linux/netfilter.h` and below it
//! `nf_tables.h`, `nf_tables_compat.h`, `nfnetlink.h`, `nfnetlink_conntrack.h`, `nf_conntrack_common.h`;
//! `linux/rtnetlink.h`; `linux/sock_diag.h`, `linux/inet_diag.h`, `net/tcp_states.h`. The types are those
//! of the attributes.

macro_rules! constants {
    ($($kind:ty { $($(#[$doc:meta])* $name:ident = $value:expr,)* })*) => {
        $($($(#[$doc])* pub(super) const $name: $kind = $value;)*)*
    };
}

/// `NFNL_SUBSYS_*`, where a message type has them.
const CTNETLINK: u16 = 1 << 8;
const NFTABLES: u16 = 10 << 8;

constants! {
    u8 {
        TCP_LISTEN = 10,
        /// The state of a UDP socket that is not connected.
        TCP_CLOSE = 7,
        AF_INET = 2, AF_INET6 = 10,
        /// Ours. nft(8) passes over what it does not know, and counts its own up from 0.
        HOLDER = 0xa0,
        IP_CT_DIR_ORIGINAL = 0,
        NFPROTO_IPV4 = 2, NFPROTO_IPV6 = 10, NFPROTO_NETDEV = 5, NFPROTO_BRIDGE = 7, NFPROTO_UNSPEC = 0,
        NFTNL_UDATA_SET_KEYBYTEORDER = 0,
        /// How nft(8) marks a comment inside user data.
        NFTNL_UDATA_SET_ELEM_COMMENT = 0,
        /// How nft(8) marks a comment inside the user data of a table or chain.
        NFTNL_UDATA_COMMENT = 0,
    }
    u16 {
        /// Types of messages, the subsystem in the upper byte.
        IPCTNL_MSG_CT_GET = CTNETLINK + 1,
        IPCTNL_MSG_CT_DELETE = CTNETLINK + 2, IPCTNL_MSG_CT_GET_STATS = CTNETLINK + 5,
        NFT_MSG_GETTABLE = NFTABLES + 1, NFT_MSG_DELTABLE = NFTABLES + 2,
        NFT_MSG_GETCHAIN = NFTABLES + 4, NFT_MSG_DELCHAIN = NFTABLES + 5,
        NFT_MSG_GETRULE = NFTABLES + 7, NFT_MSG_DELRULE = NFTABLES + 8,
        NFT_MSG_GETSET = NFTABLES + 10, NFT_MSG_DELSET = NFTABLES + 11, NFT_MSG_NEWSETELEM = NFTABLES + 12,
        NFT_MSG_GETSETELEM = NFTABLES + 13, NFT_MSG_DELSETELEM = NFTABLES + 14,
        NFT_MSG_NEWFLOWTABLE = NFTABLES + 22, NFT_MSG_GETFLOWTABLE = NFTABLES + 23,
        NFT_MSG_DELFLOWTABLE = NFTABLES + 24, NFTA_FLOWTABLE_TABLE = 1, NFTA_FLOWTABLE_NAME = 2,
        NFTA_FLOWTABLE_HOOK = 3, NFTA_FLOWTABLE_HOOK_NUM = 1, NFTA_FLOWTABLE_HOOK_PRIORITY = 2,
        NFTA_FLOWTABLE_HOOK_DEVS = 3, NFTA_DEVICE_NAME = 1,
        RTM_GETLINK = 18, IFLA_IFNAME = 3, IFLA_LINKINFO = 18, IFLA_INFO_KIND = 1,
        NFT_MSG_NEWGEN = NFTABLES + 15, NFT_MSG_GETGEN = NFTABLES + 16, NFTA_GEN_ID = 1,
        /// The register that `ct`, `fib`, `meta` and `payload` load.
        NFTA_LOAD_DREG = 1,
        SOCK_DIAG_BY_FAMILY = 20, INET_DIAG_SKV6ONLY = 11, INET_DIAG_LOCALS = 12,
        INET_DIAG_CGROUP_ID = 21,
        CTA_FILTER = 25, CTA_FILTER_ORIG_FLAGS = 1, CTA_FILTER_REPLY_FLAGS = 2, CTA_ID = 12,
        CTA_IP_V4_SRC = 1, CTA_IP_V4_DST = 2, CTA_IP_V6_SRC = 3, CTA_IP_V6_DST = 4,
        CTA_PROTO_NUM = 1, CTA_PROTO_SRC_PORT = 2, CTA_PROTO_DST_PORT = 3,
        CTA_STATS_GLOBAL_ENTRIES = 1, CTA_STATUS = 3, CTA_STATUS_MASK = 26, CTA_TUPLE_ORIG = 1,
        CTA_TUPLE_REPLY = 2, CTA_TUPLE_IP = 1, CTA_TUPLE_PROTO = 2, CTA_ZONE = 18,
        NFTA_BITWISE_SREG = 1, NFTA_BITWISE_DREG = 2, NFTA_BITWISE_MASK = 4, NFTA_BITWISE_XOR = 5,
        NFTA_BITWISE_OP = 6, NFTA_BYTEORDER_SREG = 1, NFTA_BYTEORDER_DREG = 2, NFTA_BYTEORDER_LEN = 4,
        NFTA_BYTEORDER_SIZE = 5, NFTA_CHAIN_TABLE = 1, NFTA_CHAIN_NAME = 3,
        NFTA_CHAIN_HOOK = 4, NFTA_CHAIN_POLICY = 5, NFTA_CHAIN_TYPE = 7, NFTA_CHAIN_USERDATA = 12,
        NFTA_CMP_SREG = 1, NFTA_CMP_OP = 2, NFTA_CMP_DATA = 3, NFTA_COUNTER_BYTES = 1,
        NFTA_COUNTER_PACKETS = 2, NFTA_CT_KEY = 2, NFTA_CT_DIRECTION = 3, NFTA_DYNSET_EXPR = 7, NFTA_DYNSET_EXPRESSIONS = 10, NFTA_DATA_VALUE = 1, NFTA_DATA_VERDICT = 2,
        NFTA_EXPR_NAME = 1, NFTA_EXPR_DATA = 2, NFTA_EXTHDR_SREG = 7, NFTA_FIB_RESULT = 2, NFTA_FIB_FLAGS = 3, NFTA_HASH_MODULUS = 4,
        NFTA_HASH_OFFSET = 6,
        NFTA_HOOK_HOOKNUM = 1, NFTA_HOOK_PRIORITY = 2, NFTA_HOOK_DEV = 3, NFTA_HOOK_DEVS = 4, NFTA_IMMEDIATE_DREG = 1,
        NFTA_IMMEDIATE_DATA = 2, NFTA_LIST_ELEM = 1, NFTA_LOOKUP_SET = 1, NFTA_LOOKUP_SREG = 2,
        NFTA_LOOKUP_DREG = 3, NFTA_LOOKUP_FLAGS = 5, NFTA_META_KEY = 2,
        NFTA_NAT_TYPE = 1, NFTA_NG_MODULUS = 2, NFTA_NG_OFFSET = 4, NFTA_OBJREF_IMM_TYPE = 1, NFTA_NAT_REG_ADDR_MIN = 3, NFTA_NAT_REG_PROTO_MIN = 5,
        NFTA_PAYLOAD_BASE = 2, NFTA_PAYLOAD_OFFSET = 3, NFTA_PAYLOAD_LEN = 4, NFTA_PAYLOAD_SREG = 5,
        NFTA_RANGE_SREG = 1, NFTA_RANGE_OP = 2, NFTA_RANGE_FROM = 3, NFTA_RANGE_TO = 4,
        NFTA_RULE_EXPRESSIONS = 4, NFTA_RULE_TABLE = 1, NFTA_RULE_CHAIN = 2, NFTA_RULE_USERDATA = 7,
        NFTA_RULE_POSITION = 6,
        NFTA_RULE_HANDLE = 3, NFTA_SET_ELEM_LIST_ELEMENTS = 3, NFTA_SET_ELEM_KEY = 1,
        NFTA_SET_ELEM_DATA = 2, NFTA_SET_ELEM_FLAGS = 3, NFTA_SET_ELEM_KEY_END = 10,
        NFTA_SET_ELEM_LIST_TABLE = 1, NFTA_SET_ELEM_LIST_SET = 2, NFTA_SET_ELEM_TIMEOUT = 4,
        NFTA_SET_ELEM_USERDATA = 6, NFTA_SET_ELEM_EXPR = 7, NFTA_SET_USERDATA = 13,
        NFTA_SET_TABLE = 1, NFTA_SET_NAME = 2, NFTA_SET_FLAGS = 3, NFTA_SET_KEY_LEN = 5, NFTA_SET_DESC = 9,
        NFTA_SET_DESC_CONCAT = 2, NFTA_SET_FIELD_LEN = 1, NFTA_SET_ELEM_EXPRESSIONS = 11, NFTA_TABLE_NAME = 1, NFTA_TABLE_FLAGS = 2, NFTA_TABLE_HANDLE = 4,
        /// The number of the attribute with the table's name, in every message that has one.
        NFTA_TABLE = 1,
        NFTA_TABLE_USERDATA = 6, NFTA_VERDICT_CODE = 1, NFTA_VERDICT_CHAIN = 2,
        /// Of `match` and `target` alike.
        NFTA_XT_NAME = 1,
        NFTA_XT_REV = 2,
        NFTA_XT_INFO = 3,
    }
    usize {
        /// The length of `struct inet_diag_msg`, and where its members are.
        INET_DIAG_MSG = 72,
        INET_DIAG_STATE = 1, INET_DIAG_SPORT = 4, INET_DIAG_SRC = 8, INET_DIAG_IF = 40,
        INET_DIAG_UID = 64, INET_DIAG_INODE = 68,
        /// The length of `struct ifinfomsg`.
        IFINFOMSG = 16,
        /// The length of `struct sockaddr_storage`, and where the address is in those of either family.
        SOCKADDR_STORAGE = 128,
        SIN_ADDR = 4, SIN6_ADDR = 8,
    }
    u32 {
        /// Of nft(8), `include/datatype.h`.
        BYTEORDER_HOST_ENDIAN = 1,
        CTA_FILTER_F_IP_SRC = 1, CTA_FILTER_F_IP_DST = 1 << 1, CTA_FILTER_F_PROTO_NUM = 1 << 3,
        CTA_FILTER_F_PROTO_SRC_PORT = 1 << 4, CTA_FILTER_F_PROTO_DST_PORT = 1 << 5,
        /// The destination was translated.
        IPS_DST_NAT = 1 << 5,
        IPS_SRC_NAT = 1 << 4,
        /// A flowtable forwards its packets.
        IPS_OFFLOAD = 1 << 14,
        /// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`.
        NF_CT_STATE_ESTABLISHED = 1 << 1,
        NFNLGRP_NFTABLES = 7, NFTA_FIB_F_SADDR = 1, NFTA_FIB_F_DADDR = 1 << 1, NFTA_FIB_F_IIF = 1 << 3,
        NFTA_FIB_F_PRESENT = 1 << 5, NFT_CMP_EQ = 0, NFT_CMP_NEQ = 1, NFT_CMP_LT = 2, NFT_CMP_LTE = 3,
        NFT_CMP_GT = 4, NFT_CMP_GTE = 5, NFT_CT_STATE = 0, NFT_CT_DIRECTION = 1, NFT_CT_STATUS = 2,
        NFT_CT_MARK = 3, NFT_CT_L3PROTOCOL = 7, NFT_CT_SRC = 8, NFT_CT_DST = 9, NFT_CT_PROTOCOL = 10,
        NFT_CT_PROTO_SRC = 11, NFT_CT_PROTO_DST = 12, NFT_CT_SRC_IP = 19, NFT_CT_DST_IP = 20,
        NFT_CT_SRC_IP6 = 21, NFT_CT_DST_IP6 = 22, NFT_FIB_RESULT_OIF = 1, NFT_FIB_RESULT_ADDRTYPE = 3,
        NFT_META_PROTOCOL = 1, NFT_META_PRIORITY = 2, NFT_META_IIF = 4, NFT_META_OIF = 5,
        NFT_META_OIFNAME = 7, NFT_META_NFTRACE = 12, NFT_META_SECMARK = 14, NFT_META_PKTTYPE = 19,
        NFT_META_NFPROTO = 15, NFT_META_L4PROTO = 16, NFT_META_MARK = 3, NFT_META_IIFNAME = 6,
        NFT_NAT_DNAT = 1,
        NFT_PAYLOAD_NETWORK_HEADER = 1, NFT_PAYLOAD_TRANSPORT_HEADER = 2, NFT_REG_VERDICT = 0,
        NFT_REG_1 = 1, NFT_REG32_00 = 8, NFT_SET_ELEM_INTERVAL_END = 1, NFT_SET_INTERVAL = 4,
        NFT_SET_ELEM_CATCHALL = 2, NFT_TABLE_F_DORMANT = 1,
        /// `RTN_LOCAL` of `linux/rtnetlink.h`.
        RTN_LOCAL = 2,
    }
    i32 {
        NF_NETDEV_INGRESS = 0, NF_IP_PRI_FILTER = 0,
        NFT_GOTO = -4, NFT_JUMP = -3, NFT_RETURN = -5, NF_ACCEPT = 1, NF_DROP = 0, NFT_CONTINUE = -1, NFT_BREAK = -2,
    }
}
