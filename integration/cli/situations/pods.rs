//! What is inside the pod: rules of its own, and listeners.

use super::{Situation, at, dead, load};
use crate::cli::verdict::{Client, ask};

fn nat(rules: &str) {
    load("iptables-nft-restore", &format!("*nat\n{rules}\nCOMMIT\n"));
}

fn filter(rules: &str) {
    load("iptables-nft-restore", &format!("*filter\n{rules}\nCOMMIT\n"));
}

pub(super) fn all() -> Vec<Situation> {
    let silent = ask(Client::Outside, 8081);
    vec![
        dead("no listener", |_| {}).asking(silent),
        at("no listener, and the pod's own REDIRECT to one", |scene| {
            scene.web.netns.run(|| nat("-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 80"));
        })
        .asking(silent),
        dead("no listener, and a REDIRECT of another port", |scene| {
            scene.web.netns.run(|| nat("-A PREROUTING -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 80"));
        })
        .asking(silent),
        at("Istio's chains: all that comes in goes to a proxy", |scene| {
            scene.web.netns.run(|| {
                nat(":ISTIO_INBOUND - [0:0]\n:ISTIO_IN_REDIRECT - [0:0]\n-A PREROUTING -p tcp -j ISTIO_INBOUND\n\
                     -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN\n-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n\
                     -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 80");
            });
        })
        .asking(silent),
        dead("the pod's INPUT drops", |scene| {
            scene.web.netns.run(|| filter("-A INPUT -p tcp -m tcp --dport 80 -j DROP"));
        }),
        dead("the pod's OUTPUT drops the answer", |scene| {
            scene.web.netns.run(|| filter("-A OUTPUT -p tcp -m tcp --sport 80 -j DROP"));
        }),
        at("the pod's INPUT drops another port", |scene| {
            scene.web.netns.run(|| filter("-A INPUT -p tcp -m tcp --dport 81 -j DROP"));
        }),
        dead("the pod's raw table drops, in iptables-legacy", |scene| {
            scene.web.netns.run(|| {
                load("iptables-legacy-restore", "*raw\n-A PREROUTING -p tcp -m tcp --dport 80 -j DROP\nCOMMIT\n");
            });
        }),
        at("the pod's INPUT lets in the client only", |scene| {
            scene.web.netns.run(|| filter("-A INPUT -s 192.0.2.100/32 -j ACCEPT\n-A INPUT -p tcp -j DROP"));
        }),
        dead("the pod listens on 127.0.0.1 only", |_| {}).asking(ask(Client::Outside, 8082)),
    ]
}
