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
use super::{Call, Claim, Parsed, gc, mappings, prev_result, requests};
use crate::model::{Ask, Attachment, InvalidName, check_identifier};

/// A call whose environment, version and network name are good.
pub(super) struct Parser<'a> {
    env: &'a Env,
    given: Parameters,
    conf: Object<'a>,
    version: Version,
    network: String,
    judge: Judge,
}

/// What reading [`super::NODE_FILE`] gives: nothing if there is none.
pub(super) type NodeFile = io::Result<Option<Vec<u8>>>;

impl<'a> Parser<'a> {
    pub(super) fn open(env: &'a Env, stdin: &'a [u8], command: Command) -> Result<Self, Error> {
        let given = env.parameters(command)?;
        let conf = Object::decode("the network configuration on stdin", "", stdin)?;
        let config = conf.text("cniVersion")?;
        let version = Version::of_config(&config)
            .filter(|version| command.versions().contains(&version.as_str()))
            .ok_or(Error::IncompatibleVersion { config, command })?;
        let network = network_name(&conf)?;
        let judge = match command {
            Command::Add | Command::Check => Judge::strict(),
            Command::Del | Command::Gc | Command::Status | Command::Version => Judge::lenient(),
        };
        Ok(Self { env, given, conf, version, network, judge })
    }

    pub(super) fn parse(
        mut self,
        command: Command,
        node_file: impl FnOnce() -> NodeFile,
    ) -> Result<Parsed, Error> {
        let call = match command {
            Command::Add => Call::Add(self.claim(node_file)?),
            Command::Check => Call::Check(self.claim(node_file)?),
            Command::Del => {
                let store = self.layered(node_file, StoreConfig::from_layers)?;
                Call::Del { attachment: self.attachment()?, store }
            }
            Command::Gc => {
                let store = self.layered(node_file, StoreConfig::from_layers)?;
                let valid = gc::valid_attachments(&self.conf, &self.network, &mut self.judge)?;
                Call::Gc { network: self.network, valid, store }
            }
            // VERSION was answered before.
            Command::Status | Command::Version => {
                Call::Status(self.layered(node_file, Config::from_layers)?.store)
            }
        };
        Ok(Parsed { call, warnings: self.judge.warnings })
    }

    fn claim(&mut self, node_file: impl FnOnce() -> NodeFile) -> Result<Claim, Error> {
        let wanted = mappings::read(&self.conf)?;
        let annotations = Annotations::read(&self.conf)?;
        let silent = wanted.is_empty() && annotations.is_silent();
        let node_file = || if silent { Ok(None) } else { node_file() };
        let config = self.layered(node_file, Config::from_layers)?;
        let warnings = &mut self.judge.warnings;
        let requests = requests::read(&wanted, &annotations, &config, warnings)?;
        let prev = prev_result::read(&self.conf, self.version, &self.given.ifname)?;
        let ask = Ask {
            pod: self.env.pod(warnings),
            holder: self.attachment()?.into(),
            netns: Some(self.given.netns.clone()),
            fixed: mappings::expand(&wanted, &prev.addresses)?,
            requested: requests.list,
            annotation: requests.annotation,
            allocation: requests.allocation,
            dialects: requests.dialects,
            pod_addresses: prev.addresses,
            host_interfaces: prev.host_interfaces,
            ports: config.ports,
            policy: config.policy,
            advertise_addresses: config.advertise_addresses,
            guard_except: config.guard_except,
        };
        Ok(Claim { ask, result: prev.echo, store: config.store })
    }

    /// Reads the configuration with the node's own file laid over it.
    fn layered<T>(
        &mut self,
        node_file: impl FnOnce() -> NodeFile,
        read: fn(&[&Object<'_>], &mut Judge) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let judge = &mut self.judge;
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

fn network_name(conf: &Object<'_>) -> Result<String, Error> {
    let name = conf.text("name")?;
    check_identifier("network name", &name).map_err(bad_name)?;
    Ok(name)
}

/// The container ID and interface name were checked with the environment, so this is the network's.
fn bad_name(InvalidName { value, rule, .. }: InvalidName) -> Error {
    let value = if value.is_empty() { "missing".to_owned() } else { quote(&value) };
    Error::Invalid { key: "name".into(), value, allowed: rule.to_owned() }
}
