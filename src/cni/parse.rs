//! One call: first what every command but VERSION has in common, then what each has of its own.

use std::io;

use super::annotations::Annotations;
use super::command::Command;
use super::config::{Config, Judge, StoreConfig, decode_node_file};
use super::env::{Env, Parameters};
use super::error::Error;
use super::json::Object;
use super::text::quote;
use super::version::Version;
use super::{Call, Claim, Release, Sweep, gc, mappings, prev_result, requests};
use crate::model::{Ask, Attachment, InvalidName, check_identifier};

/// A call whose environment, version and network name are good.
pub(super) struct Parser<'a> {
    env: &'a Env,
    given: Parameters,
    conf: Object<'a>,
    version: Version,
    network: String,
}

/// A request with its warnings.
type Answer = Result<(Call, Vec<String>), Error>;

/// What reading [`super::NODE_FILE`] gives: nothing if there is none.
pub(super) type NodeFile = io::Result<Option<Vec<u8>>>;

impl<'a> Parser<'a> {
    pub(super) fn open(env: &'a Env, stdin: &'a [u8], command: Command) -> Result<Self, Error> {
        let given = env.parameters(command)?;
        let conf = Object::decode("the network configuration on stdin", "", stdin)?;
        let config = config_version(&conf)?;
        let version = Version::of_config(&config)
            .filter(|version| command.versions().contains(version))
            .ok_or(Error::IncompatibleVersion { config, command })?;
        let network = network_name(&conf)?;
        Ok(Self { env, given, conf, version, network })
    }

    pub(super) fn claim(
        self,
        node_file: impl FnOnce() -> NodeFile,
        call: impl FnOnce(Claim) -> Call,
    ) -> Answer {
        let mut judge = Judge::strict();
        let wanted = mappings::read(&self.conf)?;
        let annotations = Annotations::read(&self.conf)?;
        let silent = wanted.is_empty() && annotations.is_silent();
        let node_file = || if silent { Ok(None) } else { node_file() };
        let config = self.layered(node_file, &mut judge, Config::from_layers)?;
        let requests = requests::read(&wanted, &annotations, &config, &mut judge.warnings)?;
        let prev = prev_result::read(&self.conf, self.version, &self.given.ifname)?;
        let attachment = self.attachment()?;
        let ask = Ask {
            holder: attachment.clone().into(),
            pod: self.env.pod(&mut judge.warnings),
            netns: Some(self.given.netns),
            fixed: mappings::expand(&wanted, &prev.addresses)?,
            requested: requests.list,
            annotation: requests.annotation,
            allocation: requests.allocation,
            dialects: requests.dialects.into(),
            pod_addresses: prev.addresses,
            host_interfaces: prev.host_interfaces,
            ports: config.ports,
            policy: config.policy,
            advertise_addresses: config.advertise_addresses,
            guard_except: config.guard_except,
        };
        let claim = Claim { attachment, ask, result: prev.echo, store: config.store };
        Ok((call(claim), judge.warnings))
    }

    pub(super) fn release(self, node_file: impl FnOnce() -> NodeFile) -> Answer {
        let mut judge = Judge::lenient();
        let store = self.layered(node_file, &mut judge, StoreConfig::from_layers)?;
        let release = Release { attachment: self.attachment()?, store };
        Ok((Call::Del(release), judge.warnings))
    }

    pub(super) fn sweep(self, node_file: impl FnOnce() -> NodeFile) -> Answer {
        let mut judge = Judge::lenient();
        let store = self.layered(node_file, &mut judge, StoreConfig::from_layers)?;
        let valid = gc::valid_attachments(&self.conf, &self.network, &mut judge)?;
        Ok((Call::Gc(Sweep { network: self.network, valid, store }), judge.warnings))
    }

    pub(super) fn status(self, node_file: impl FnOnce() -> NodeFile) -> Answer {
        let mut judge = Judge::lenient();
        let config = self.layered(node_file, &mut judge, Config::from_layers)?;
        Ok((Call::Status(config.store), judge.warnings))
    }

    /// Reads the configuration with the node's own file laid over it.
    fn layered<T>(
        &self,
        node_file: impl FnOnce() -> NodeFile,
        judge: &mut Judge,
        read: fn(&[&Object<'_>], &mut Judge) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let bytes = node_file().map_err(|source| Error::NodeFile { source });
        let bytes = judge.weigh(bytes)?.flatten();
        let node = bytes.as_deref().map(decode_node_file).transpose();
        let node = judge.weigh(node)?.flatten();
        let layers: Vec<&Object<'_>> = node.iter().chain([&self.conf]).collect();
        read(&layers, judge)
    }

    fn attachment(&self) -> Result<Attachment, Error> {
        Attachment::new(&self.network, &self.given.container_id, &self.given.ifname)
            .map_err(bad_name)
    }
}

/// The text of `cniVersion`, empty if there is none.
pub(super) fn config_version(conf: &Object<'_>) -> Result<String, Error> {
    conf.get("cniVersion").map_or(Ok(String::new()), |field| field.string())
}

fn network_name(conf: &Object<'_>) -> Result<String, Error> {
    let name = conf.get("name").map_or(Ok(String::new()), |field| field.string())?;
    check_identifier("network name", &name).map_err(bad_name)?;
    Ok(name)
}

/// The container ID and interface name were checked with the environment, so this is the network's.
fn bad_name(InvalidName { value, rule, .. }: InvalidName) -> Error {
    let value = if value.is_empty() { "missing".to_owned() } else { quote(&value) };
    Error::Invalid { key: "name".into(), value, allowed: rule.to_owned() }
}
