//! Rule sets as other programs write them.

use super::{Situation, at, dead, load};
use crate::stage::netns::nft;

const UFW: &str = include_str!("rules/ufw");
const DOCKER: &str = include_str!("rules/docker");
const CALICO: &str = include_str!("rules/calico");
const FIREWALLD: &str = include_str!("rules/firewalld.nft");
const NERDCTL: &str = include_str!("rules/nerdctl");

fn ufw(policy: &str, rules: &str) {
    let text = UFW.replace("POLICY", policy).replace("RULES\n", rules);
    load("iptables-nft-restore", &text);
}

fn calico(policy: &str) {
    load("iptables-nft-restore", &CALICO.replace("POLICY\n", policy));
}

fn firewalld(first: &str) {
    nft(&FIREWALLD.replace("FIRST", first));
}

pub(super) fn all() -> Vec<Situation> {
    vec![
        dead("ufw: default deny routed", |_| ufw("DROP", "")),
        at("ufw: default allow routed", |_| ufw("ACCEPT", "")),
        at("ufw: route allow to the port", |_| {
            ufw("DROP", "-A ufw-user-forward -p tcp -d 10.1.0.0/24 --dport 80 -j ACCEPT\n");
        }),
        at("ufw: route deny from the client", |_| {
            ufw("ACCEPT", "-A ufw-user-forward -s 192.0.2.100 -j DROP\n");
        }),
        at("ufw: route deny from another client", |_| {
            ufw("ACCEPT", "-A ufw-user-forward -s 192.0.2.99 -j DROP\n");
        }),
        at("ufw: route limit of the port", |_| {
            ufw(
                "ACCEPT",
                "-A ufw-user-forward -p tcp --dport 80 -m conntrack --ctstate NEW -m recent --set --name ufw\n\
                 -A ufw-user-forward -p tcp --dport 80 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name ufw -j DROP\n",
            );
        }),
        at("firewalld: the default zone", |_| firewalld("ct status dnat accept")),
        dead("firewalld: without its rule for what is translated", |_| firewalld("")),
        dead("Docker's FORWARD with policy DROP", |_| load("iptables-nft-restore", DOCKER)),
        dead("Docker's FORWARD with policy DROP, iptables-legacy", |_| {
            load("iptables-legacy-restore", DOCKER);
        }),
        at("Docker's FORWARD, and the remedy of doctor", |_| {
            load("iptables-nft-restore", DOCKER);
            load(
                "iptables-nft-restore",
                "*filter\n-I FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n",
            );
        }),
        at("Calico: a profile allows", |_| calico("")),
        dead("Calico: a policy denies", |_| {
            calico("-A cali-tw-cni1 -m comment --comment \"cali:deny\" -j DROP\n");
        }),
        at("Calico: a policy allows the client's network", |_| {
            calico(
                "-A cali-tw-cni1 -s 192.0.2.0/24 -p tcp -m multiport --dports 80 -j MARK --set-xmark 0x10000/0x10000\n\
                 -A cali-tw-cni1 -m mark --mark 0x10000/0x10000 -j RETURN\n-A cali-tw-cni1 -j DROP\n",
            );
        }),
        at("nerdctl: isolation of other bridges", |_| load("iptables-nft-restore", NERDCTL)),
        dead("nerdctl: isolation of the pods' bridge", |_| {
            load("iptables-nft-restore", &NERDCTL.replace("nerdctl0", "cni1"));
        }),
    ]
}
