//! What a pod on the node's own network asks for. No plugin is called for it, so it asks by its annotations
//! alone, by the plugin's rules.

use std::num::NonZeroU16;

use autoport::cni::{
    ALLOCATION, BIND, Config, Error, PORTS, PodAnnotations, RANGE, asking, bind_hook,
    read_annotations,
};
use autoport::model::{Ask, ContainerPort, Dialect, Holder, Pod, Protocol, Request};

/// The claim of such a pod, with what is ignored, a line each; `None` if it asks for nothing. Nothing is
/// translated for it, so it can ask for `auto` ports only, and for others by the bind hook.
///
/// # Errors
/// When its annotations ask for something that it cannot have, or are misspelt.
pub(super) fn ask(
    holder: Holder,
    pod: Pod,
    annotations: &PodAnnotations,
    config: Config,
) -> Result<Option<(Ask, Vec<String>)>, Error> {
    refuse_without_list(annotations, &config)?;
    let mut warnings = Vec::new();
    let aliases = config.aliases.clone();
    let mut ask = config.ask(holder);
    ask.pod = Some(pod);
    let read = read_annotations(&mut ask, annotations, &aliases, &mut warnings);
    read.map_err(|error| of_host_network(error, annotations))?;
    let is_hooked = bind_hook(annotations.get(BIND).map(String::as_str))?.is_some();
    let refuse = if is_hooked { refuse_sctp } else { refuse_translation };
    for request in &ask.requested {
        refuse(request, ask.annotation.unwrap_or(PORTS))?;
    }
    Ok((!ask.is_empty()).then_some((ask, warnings)))
}

const BCS_PORTS: &str = "ports.randhostport.webhook.bkbcs.tencent.com";

const LIST: &str = "but no port is named: a Pod on the host network lists the host ports that its \
                    program listens on in the annotation autoport.cni/ports, as in \
                    \"http=auto, game=auto/udp\"";

/// A port that is declared on the host network is a fixed host port, so that a name of one asks for nothing.
fn of_host_network(error: Error, annotations: &PodAnnotations) -> Error {
    if !matches!(error, Error::NeedsSpec { .. }) {
        return error;
    }
    let key = if annotations.contains_key(PORTS) { PORTS } else { BCS_PORTS };
    let names = "but the names of declared ports cannot be used by a Pod on the host network, where such \
                 ports are fixed: declare none, and list the ports in the annotation \
                 autoport.cni/ports, as in \"http=auto, game=auto/udp\"";
    Error::annotation(key, annotations.get(key).map_or("", String::as_str), names)
}

/// On the pod network the text would show a list that cannot be used here.
fn refuse_without_list(annotations: &PodAnnotations, config: &Config) -> Result<(), Error> {
    let asked = |alias| asking(annotations, &[alias].into()).next();
    let alias = |alias| asked(alias).filter(|_| config.aliases.contains(&alias));
    if annotations.contains_key(PORTS) || alias(Dialect::Bcs).is_some() {
        return Ok(());
    }
    let mut keys = alias(Dialect::KubeWharf).into_iter().chain([RANGE, ALLOCATION, BIND]);
    let lonely = keys.find_map(|key| Some((key, annotations.get(key)?)));
    lonely.map_or(Ok(()), |(key, value)| Err(Error::annotation(key, value, LIST)))
}

fn refuse_translation(request: &Request, annotation: &'static str) -> Result<(), Error> {
    let ContainerPort::From(_) = request.container_port else { return Ok(()) };
    let (container_port, count) = (ContainerPort::Same, NonZeroU16::MIN);
    let auto = Request { container_port, count, ..request.clone() };
    let instead = if request.count == count {
        format!("{:?}", auto.to_string())
    } else {
        let name = request.name.as_deref().unwrap_or("port");
        let one = |at: u8| Request { name: Some(format!("{name}-{at}")), ..auto.clone() };
        format!("an item for each port, as in \"{}, {}\",", one(0), one(1))
    };
    let allowed = format!(
        "but the Pod is on the host network, where no port is translated to another one: write \
         {instead} in the annotation {PORTS}, and let the program listen on the host port that its \
         environment names. With the annotation {BIND}: \"redirect\" it can listen on its own port"
    );
    Err(Error::annotation(annotation, &request.to_string(), allowed))
}

/// The kernel runs no program at a bind of SCTP.
fn refuse_sctp(request: &Request, annotation: &'static str) -> Result<(), Error> {
    let is_translated = matches!(request.container_port, ContainerPort::From(_));
    if !is_translated || !request.protocols.contains(&Protocol::Sctp) {
        return Ok(());
    }
    let auto = Request { container_port: ContainerPort::Same, ..request.clone() };
    let allowed = format!(
        "but {BIND} cannot redirect SCTP: write {:?}, and let the program listen on the host port that its \
         environment names",
        Request { protocols: vec![Protocol::Sctp], ..auto }.to_string()
    );
    Err(Error::annotation(annotation, &request.to_string(), allowed))
}

#[cfg(test)]
mod tests {
    use autoport::cni::NodeFiles;
    use autoport::model::HostPod;

    use super::*;

    const KUBEWHARF: &str = "pod.kubewharf.kubernetes.io/autoport";
    const BCS: &str = "randhostport.webhook.bkbcs.tencent.com";

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Ask>, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let annotations = pairs.iter().map(own).collect();
        let (config, _) = Config::read(None, &NodeFiles::default()).expect("the defaults");
        let pod = Pod { namespace: "games".into(), name: "game-0".into(), uid: "u1".into() };
        let holder = HostPod::new("u1").expect("a UID").into();
        let asked = ask(holder, pod, &annotations, config);
        asked.map(|asked| asked.map(|(ask, _)| ask)).map_err(|error| error.in_one_line())
    }

    #[test]
    fn a_pod_gets_the_ports_that_its_program_listens_on() {
        let asked = asked(&[(PORTS, "http=auto, game=auto/udp")]).expect("it is right");
        let asked = asked.expect("it asks for ports");
        let requested: Vec<String> = asked.requested.iter().map(ToString::to_string).collect();
        assert_eq!(requested, ["http=auto/tcp", "game=auto/udp"]);
        assert!(asked.fixed.is_empty() && asked.pod_addresses.is_empty() && asked.netns.is_none());
    }

    #[test]
    fn with_the_bind_hook_a_program_listens_on_its_own_port() {
        let hooked = ("autoport.cni/bind", "redirect");
        let list = "http=8080, dns=53/tcp+udp, rtp=10000-10009/udp, game=auto/sctp";
        let asked = asked(&[(PORTS, list), hooked]).expect("it is right");
        let requested = asked.expect("it asks for ports").requested;
        let requested: Vec<String> = requested.iter().map(ToString::to_string).collect();
        let expected = ["http=8080/tcp", "dns=53/tcp+udp", "rtp=10000-10009/udp", "game=auto/sctp"];
        assert_eq!(requested, expected);
    }

    #[test]
    fn a_pod_without_such_annotations_asks_for_nothing() {
        for nothing in [
            &[][..],
            &[("example.com/other", "1")],
            &[(KUBEWHARF, "false")],
            &[(KUBEWHARF, "0"), ("autoport.cni/mount", "false")],
            &[(BCS, "false"), (BCS_PORTS, "8080")],
        ] {
            assert!(matches!(asked(nothing), Ok(None)), "{nothing:?}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_shows_what_can() {
        for (pairs, shown) in [
            (&[(PORTS, "http=8080")][..], "write \"http=auto/tcp\" in"),
            (&[(PORTS, "8080")], "write \"auto/tcp\" in"),
            (&[(PORTS, "rtp=10000-10009/udp")], "as in \"rtp-0=auto/udp, rtp-1=auto/udp\""),
            (&[(KUBEWHARF, "true")], "\"http=auto, game=auto/udp\""),
            (&[(KUBEWHARF, "true"), (PORTS, "8080")], "write \"auto/tcp\" in"),
            (&[(PORTS, "http, game=auto")], "as in \"http=auto, game=auto/udp\""),
            (&[(BCS, "true"), (BCS_PORTS, "http")], "as in \"http=auto, game=auto/udp\""),
            (&[(PORTS, "s=9/tcp+sctp"), (BIND, "redirect")], "write \"s=auto/sctp\""),
            (&[(PORTS, "a=8080, b=8080"), (BIND, "redirect")], "as does item 1, \"a=8080\""),
            (&[(PORTS, "8080"), (BIND, "getsockname")], "must be \"redirect\" or"),
            (&[(PORTS, "8080"), (BIND, "")], "must be \"redirect\" or"),
            (
                &[(PORTS, "8080"), ("autoport.cni/binds", "redirect")],
                "did you mean autoport.cni/bind?",
            ),
            (&[(BIND, "redirect")], "\"http=auto, game=auto/udp\""),
            (&[(RANGE, "game")], "\"http=auto, game=auto/udp\""),
            (&[(ALLOCATION, "random")], "\"http=auto, game=auto/udp\""),
            (&[(BCS, "true"), (BCS_PORTS, "8080")], "in the annotation autoport.cni/ports"),
            (&[("autoport.cni/port", "http=auto")], "did you mean autoport.cni/ports?"),
            (&[("autoport.cni/envs", "required")], "did you mean autoport.cni/env?"),
        ] {
            let error = asked(pairs).expect_err("it cannot be had");
            assert!(error.contains(shown), "{error}");
        }
    }

    /// `integration/cluster/admission.rs` compares the policies of the component `admission` with the same list.
    #[test]
    fn annotations_are_judged_as_the_admission_policies_do() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../../integration/cluster/annotations.json"))
                .expect("JSON");
        let cases = cases.as_array().expect("a list").iter();
        for case in cases.filter(|case| case["hostNetwork"] == true) {
            let pairs = case["annotations"].as_object().expect("annotations").iter();
            let pairs: Vec<_> =
                pairs.map(|(key, value)| (&**key, value.as_str().expect("a text"))).collect();
            match asked(&pairs) {
                Ok(ask) => {
                    let requested = ask.into_iter().flat_map(|ask| ask.requested);
                    let count: u64 = requested.map(|one| u64::from(one.count.get())).sum();
                    assert_eq!(case["count"], count, "{case}");
                }
                Err(error) => assert!(case["rejected"].is_string(), "{case}: {error}"),
            }
        }
    }
}
