use super::*;
use crate::diagnosis::passage::{Passage, Stage, walk};
use crate::kernel::{Interface, Packet, Tuple};

#[test]
fn a_text_in_quotes_is_one_word() {
    for (rule, expected) in [
        (r#"--comment "a \"b\" c" -p tcp"#, "--comment _ -p tcp"),
        (r#"--comment "ends in \\" -p tcp"#, "--comment _ -p tcp"),
        (r#"--comment a -m x --y "" -p tcp"#, "--comment a -m x --y _ -p tcp"),
    ] {
        assert_eq!(unquoted(rule), expected);
    }
}

fn others(text: &str) -> Others {
    let mut others = Others::default();
    read(Family::V4, text, &mut others);
    others
}

/// A new connection from 192.0.2.100 to a port, that came in by `eth0`.
fn packet(port: u16) -> Packet {
    let tuple = Tuple {
        source: Some([192, 0, 2, 100].into()),
        destination: Some([192, 0, 2, 1].into()),
        source_port: None,
        destination_port: Some(port),
    };
    Packet {
        protocol: Some(6),
        tuple,
        original: tuple,
        input: Some(Interface { index: 2, name: "eth0".to_owned() }),
        state: Some(Packet::NEW),
        status: Some(0),
        is_answer: Some(false),
        tcp_flags: Some(2),
        mark: Some(0),
        destination_type: Some(2),
        ..Packet::unknown(Family::V4)
    }
}

#[test]
fn what_portmap_left_is_understood() {
    let others = others(
        "\
*nat
:PREROUTING ACCEPT [0:0]
:CNI-DN-0123 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-DN-0123 -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0123 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.5:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"net\\\" id: \\\"abc\\\"\" -m multiport --dports 8080,9000:9010 -j CNI-DN-0123
COMMIT
",
    );
    let stage = Stage { nat: true, ..Stage::of(Hook::Prerouting) };
    let taken = walk(&others, &stage, &mut packet(8080)).taken.expect("a translation");
    assert_eq!((taken.to.as_str(), taken.is_certain), ("10.1.0.5:80", true));
    assert_eq!(taken.via.len(), 3, "{taken:?}");
    for other in [8081, 9005] {
        assert_eq!(walk(&others, &stage, &mut packet(other)).taken, None, "{other}");
    }
}

/// Each rule of a chain FORWARD that would accept otherwise.
#[test]
fn each_condition_is_for_the_packet_or_not_or_not_understood() {
    for (rule, expected) in [
        ("-s 192.0.2.0/24", Some(true)),
        ("! -s 192.0.2.0/24", Some(false)),
        ("-d 192.0.2.2/32", Some(false)),
        ("-i eth0", Some(true)),
        ("-i eth", Some(false)),
        ("-i eth+", Some(true)),
        ("! -i eth1", Some(true)),
        ("-p udp", Some(false)),
        ("! -p udp", Some(true)),
        ("-p tcp -m tcp --dport 80:90", Some(true)),
        ("-p tcp -m tcp ! --dport 80:90", Some(false)),
        ("-p tcp -m tcp --sport 53", Some(false)),
        ("-p tcp -m tcp --sport 5353", None),
        ("-p tcp -m multiport --ports 80,443", Some(true)),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", Some(true)),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", Some(false)),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED", Some(true)),
        ("-m conntrack --ctorigdstport 80 --ctdir ORIGINAL", Some(true)),
        ("-m conntrack --ctorigsrc 192.0.2.101/32", Some(false)),
        ("-m iprange --src-range 192.0.2.90-192.0.2.110", Some(true)),
        ("-m addrtype --dst-type LOCAL", Some(true)),
        ("-m addrtype ! --dst-type LOCAL", Some(false)),
        ("-m mark --mark 0x1/0x1", Some(false)),
        ("-m physdev --physdev-is-bridged", None),
        ("-m recent --update --seconds 60 --name DEFAULT --mask 255.255.255.255 --rsource", None),
        ("-m set --match-set banned src", None),
        ("-m string --string \"-j ACCEPT\" --algo bm", None),
        ("-m limit --limit 3/min --limit-burst 10", None),
        ("-m length --length 1:9", None),
    ] {
        let others =
            others(&format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule} -j DROP\n"));
        let walked = walk(&others, &Stage::of(Hook::Forward), &mut packet(80));
        let passage = walked.obstacle.map(|(_, passage)| passage);
        let drops = match passage {
            None => Some(false),
            Some(Passage::Drops(_)) => Some(true),
            Some(_) => None,
        };
        assert_eq!(drops, expected, "{rule}");
    }
}

#[test]
fn a_mark_that_is_set_is_known_behind() {
    for (target, drops) in [
        ("MARK --set-xmark 0x40/0x40", true),
        ("MARK --set-xmark 0x80/0xffffffff", false),
        ("CONNMARK --set-xmark 0x40/0x40", false),
    ] {
        let others = others(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j {target}\n\
             -A PREROUTING -m mark --mark 0x40/0x40 -j DROP\n"
        ));
        let walked = walk(&others, &Stage::of(Hook::Prerouting), &mut packet(80));
        assert_eq!(walked.obstacle.is_some(), drops, "{target}");
    }
}

#[test]
fn what_is_not_tracked_is_known() {
    let others = others(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j CT --notrack\n",
    );
    let mut untracked = packet(80);
    let walked = walk(&others, &Stage::of(Hook::Prerouting), &mut untracked);
    assert!(walked.untracked.is_some_and(|(_, is_certain)| is_certain));
    let walked = walk(&others, &Stage::of(Hook::Prerouting), &mut packet(81));
    assert_eq!(walked.untracked, None);
}
