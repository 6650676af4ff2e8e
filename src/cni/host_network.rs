//! What a pod on the node's own network asks for. No plugin is called for it, so its annotations arrive
//! from another program, which asks here for the same rules.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::annotations::{Annotations, BCS, CAPABILITY, KUBEWHARF, PORTS};
use super::config::Config;
use super::error::Error;
use super::json::Object;
use super::requests;
use super::text::quote;
use crate::model::{Ask, ContainerPort, Dialect, Holder, Pod, Request};

/// A pod's annotations.
pub type PodAnnotations = BTreeMap<String, String>;

/// The annotation by which a pod asks for host ports that the node chooses; `None` if it asks for none.
/// On the pod network such a pod may still have fixed host ports only, if a patched kubelet has chosen them.
pub fn asks_by<'a>(
    annotations: &'a PodAnnotations,
    aliases: &BTreeSet<Dialect>,
) -> Option<&'a str> {
    let is_on = |key: &&str| match (*key, annotations.get(*key).map(|value| value.trim())) {
        (_, None) => false,
        (KUBEWHARF, Some(value)) => {
            aliases.contains(&Dialect::KubeWharf) && !["false", "0"].contains(&value)
        }
        (BCS, Some(value)) => aliases.contains(&Dialect::Bcs) && value == "true",
        (_, Some(_)) => true,
    };
    let key = [PORTS, KUBEWHARF, BCS].into_iter().find(is_on)?;
    annotations.get_key_value(key).map(|(key, _)| key.as_str())
}

/// The claim of a pod on the node's network, with what is ignored, a line each; `None` if it asks for
/// nothing. Nothing is translated for such a pod, so it can ask for `auto` ports only.
///
/// # Errors
/// When its annotations ask for something that it cannot have, or are misspelt.
pub fn host_network_ask(
    holder: Holder,
    pod: Pod,
    annotations: &PodAnnotations,
    config: &Config,
) -> Result<Option<(Ask, Vec<String>)>, Error> {
    let bytes = json!({"runtimeConfig": {CAPABILITY: annotations}}).to_string();
    let what = "the annotations of the pod";
    let annotations = Annotations::read(&Object::decode(what, "", bytes.as_bytes())?)?;
    if annotations.is_silent() {
        return Ok(None);
    }
    if annotations.get(PORTS).is_none() {
        refuse_without_list(&annotations, config)?;
    }
    let mut warnings = Vec::new();
    let mut ask = config.clone().ask(holder);
    ask.pod = Some(pod);
    requests::read(&mut ask, &[], &annotations, &config.aliases, &mut warnings)?;
    for request in &ask.requested {
        refuse_translation(request, ask.annotation.unwrap_or(PORTS))?;
    }
    Ok((!ask.is_empty()).then_some((ask, warnings)))
}

const LIST: &str = "but no port is named: a Pod on the host network lists the host ports that its \
                    program listens on in the annotation autoport.cni/ports, as in \
                    \"http=auto, game=auto/udp\"";

/// On the pod network the text would show a list that cannot be used here.
fn refuse_without_list(annotations: &Annotations, config: &Config) -> Result<(), Error> {
    let alias = Dialect::KubeWharf;
    match annotations.get(KUBEWHARF) {
        Some(value)
            if config.aliases.contains(&alias) && !["false", "0"].contains(&value.trim()) =>
        {
            Err(Error::annotation(KUBEWHARF, value, LIST))
        }
        _ => Ok(()),
    }
}

fn refuse_translation(request: &Request, annotation: &'static str) -> Result<(), Error> {
    let ContainerPort::From(_) = request.container_port else { return Ok(()) };
    let auto = Request { container_port: ContainerPort::Same, ..request.clone() };
    let allowed = format!(
        "but the Pod is on the host network, where no port is translated to another one: write \
         {}, and let the program listen on the host port that its environment names",
        quote(&auto.to_string())
    );
    Err(Error::annotation(annotation, &request.to_string(), allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostPod;

    fn annotations(pairs: &[(&str, &str)]) -> PodAnnotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn ask(pairs: &[(&str, &str)]) -> Result<Option<Ask>, String> {
        let (config, _) = Config::read(None, None).expect("the defaults");
        let pod = Pod { namespace: "games".into(), name: "game-0".into(), uid: "u1".into() };
        let holder = HostPod::new("u1").expect("a UID").into();
        let asked = host_network_ask(holder, pod, &annotations(pairs), &config);
        asked.map(|asked| asked.map(|(ask, _)| ask)).map_err(|error| error.in_one_line())
    }

    #[test]
    fn a_pod_gets_the_ports_that_its_program_listens_on() {
        let asked = ask(&[(PORTS, "http=auto, game=auto/udp")]).expect("it is right");
        let asked = asked.expect("it asks for ports");
        let requested: Vec<String> = asked.requested.iter().map(ToString::to_string).collect();
        assert_eq!(requested, ["http=auto/tcp", "game=auto/udp"]);
        assert!(asked.fixed.is_empty() && asked.pod_addresses.is_empty() && asked.netns.is_none());
        for nothing in [&[][..], &[("example.com/other", "1")], &[(KUBEWHARF, "false")]] {
            assert!(matches!(ask(nothing), Ok(None) | Err(_)), "{nothing:?}");
        }
        assert!(matches!(ask(&[]), Ok(None)));
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_shows_what_can() {
        for (pairs, shown) in [
            (&[(PORTS, "http=8080")][..], "write \"http=auto/tcp\""),
            (&[(PORTS, "rtp=10000-10009/udp")], "write \"rtp=auto/udp\""),
            (&[(KUBEWHARF, "true")], "\"http=auto, game=auto/udp\""),
            (&[(KUBEWHARF, "true"), (PORTS, "8080")], "auto/tcp"),
            (&[("autoport.cni/port", "http=auto")], "did you mean autoport.cni/ports?"),
            (&[("autoport.cni/envs", "required")], "did you mean autoport.cni/env?"),
        ] {
            let error = ask(pairs).expect_err("it cannot be had");
            assert!(error.contains(shown), "{error}");
        }
    }

    #[test]
    fn the_annotation_that_asks_is_found() {
        let all = [Dialect::KubeWharf, Dialect::Bcs].into();
        for (pairs, expected) in [
            (&[(PORTS, "8080")][..], Some(PORTS)),
            (&[(KUBEWHARF, " random ")], Some(KUBEWHARF)),
            (&[(KUBEWHARF, "false")], None),
            (&[(BCS, "true")], Some(BCS)),
            (&[(BCS, "yes")], None),
            (&[("example.com/ports", "8080")], None),
        ] {
            assert_eq!(asks_by(&annotations(pairs), &all), expected, "{pairs:?}");
        }
        assert_eq!(asks_by(&annotations(&[(KUBEWHARF, "true")]), &BTreeSet::new()), None);
    }
}
