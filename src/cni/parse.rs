//! One call: VERSION at once, of the others first what they have in common, then what each has of its own.

use super::annotations::{Annotations, BIND, ENV, bind_hook, requires_variables};
use super::command::Command;
use super::config::{Config, StoreConfig};
use super::env::{Env, Parameters};
use super::error::Error;
use super::json::Object;
use super::judge::Judge;
use super::node_files::NodeFiles;
use super::text::quote;
use super::version::Version;
use super::{Call, Claim, Parsed, gc, mappings, prev_result, requests, version_on};
use crate::model::{Attachment, InvalidName, Pod, check_identifier};

impl Call {
    /// Reads a call. `node_files` reads them, and is called only if their content matters: not on VERSION, and
    /// not on an ADD or CHECK that neither port mappings nor annotations ask for ports in.
    ///
    /// `declared` lists the ports that a Pod declares, and is called only on an ADD or CHECK whose annotations
    /// leave something to them: what they are `needed` for, as its last argument says, cannot be served without.
    ///
    /// On DEL, GC and STATUS no key of ours is ever an error, and neither is a file of the node.
    ///
    /// # Errors
    /// When the environment is incomplete, stdin is not a JSON object, the version is not spoken,
    /// or the network has no valid name; on ADD and CHECK also when there is no `prevResult` or
    /// something in the configuration cannot be served.
    pub fn parse<E: From<Error>>(
        env: &Env,
        stdin: &[u8],
        node_files: impl FnOnce() -> NodeFiles,
        declared: impl FnOnce(&StoreConfig, &Pod, bool) -> Result<String, E>,
    ) -> Result<Parsed, E> {
        let command = env.command()?;
        if command == Command::Version {
            // It has to answer whatever is on stdin, be it nothing.
            let asked = version_on(stdin).filter(|text| !text.is_empty());
            let cni_version = asked.unwrap_or_else(|| Version::NEWEST.to_string());
            return Ok(Parsed { call: Self::Version { cni_version }, warnings: Vec::new() });
        }
        let given = env.parameters(command)?;
        let conf = Object::decode("the network configuration on stdin", "", stdin)?;
        let config = conf.text("cniVersion")?;
        let version = Version::of_config(&config)
            .filter(|version| command.versions().contains(&version.as_str()))
            .ok_or(Error::IncompatibleVersion { config, command })?;
        let network = conf.text("name")?;
        check_identifier("network name", &network).map_err(bad_name)?;
        let judge = match command {
            Command::Add | Command::Check => Judge::strict(),
            Command::Del | Command::Gc | Command::Status | Command::Version => Judge::lenient(),
        };
        let mut parser = Parser { env, given, conf, version, network, judge };
        let call = match command {
            Command::Add => Call::Add(parser.claim(node_files, declared)?),
            Command::Check => Call::Check(parser.claim(node_files, declared)?),
            Command::Del => {
                let store = parser.layered(node_files, StoreConfig::from_layers)?;
                let wanted = mappings::read(&parser.conf);
                let has_mappings = wanted.map_or(true, |wanted| !wanted.is_empty());
                Call::Del { attachment: parser.attachment()?, has_mappings, store }
            }
            Command::Gc => {
                let store = parser.layered(node_files, StoreConfig::from_layers)?;
                let Parser { conf, network, judge, .. } = &mut parser;
                let valid = gc::valid_attachments(conf, network, judge)?;
                Call::Gc { network: parser.network, valid, store }
            }
            Command::Status | Command::Version => {
                Call::Status(parser.layered(node_files, Config::from_layers)?.store)
            }
        };
        Ok(Parsed { call, warnings: parser.judge.warnings })
    }
}

/// A call whose environment, version and network name are good.
struct Parser<'a> {
    env: &'a Env,
    given: Parameters,
    conf: Object<'a>,
    version: Version,
    network: String,
    judge: Judge,
}

impl Parser<'_> {
    fn claim<E: From<Error>>(
        &mut self,
        node_files: impl FnOnce() -> NodeFiles,
        declared: impl FnOnce(&StoreConfig, &Pod, bool) -> Result<String, E>,
    ) -> Result<Claim, E> {
        let wanted = mappings::read(&self.conf)?;
        let annotations = Annotations::read(&self.conf)?;
        let silent = wanted.is_empty() && annotations.is_silent();
        let node_files = || if silent { NodeFiles::default() } else { node_files() };
        let config = self.layered(node_files, Config::from_layers)?;
        let (store, aliases) = (config.store.clone(), config.aliases.clone());
        let agent_required = config.agent_required;
        let mut ask = config.ask(self.attachment()?.into());
        let warnings = &mut self.judge.warnings;
        ask.pod = self.env.pod(warnings);
        let pod = ask.pod.clone().unwrap_or_default();
        let mut read = |declared: Option<&str>| {
            requests::read(&mut ask, &wanted, &annotations, &aliases, declared, warnings)
        };
        match read(None) {
            Err(Error::NeedsSpec { needed }) => read(Some(&declared(&store, &pod, needed)?))?,
            done => done?,
        }
        // It is for pods on the node's network; a wrong value is an error on every network.
        bind_hook(annotations.get(BIND))?;
        let is_required = requires_variables(annotations.get(ENV))?;
        let needs_agent = is_required || agent_required && !ask.requested.is_empty();
        let prev = prev_result::read(&self.conf, self.version, &self.given.ifname)?;
        ask.netns = Some(self.given.netns.clone());
        ask.fixed = mappings::expand(&wanted, &prev.addresses)?;
        ask.pod_addresses = prev.addresses;
        ask.host_interfaces = prev.host_interfaces;
        Ok(Claim { needs_agent: needs_agent && !ask.is_empty(), ask, result: prev.echo, store })
    }

    /// Reads the configuration with the node's own files laid over it.
    fn layered<T>(
        &mut self,
        node_files: impl FnOnce() -> NodeFiles,
        read: fn(&[&Object<'_>], &mut Judge) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let judge = &mut self.judge;
        let node_files = node_files();
        let node = node_files.decode(judge)?;
        let layers: Vec<&Object<'_>> = node.iter().chain([&self.conf]).collect();
        read(&layers, judge)
    }

    fn attachment(&self) -> Result<Attachment, Error> {
        Attachment::new(&self.network, &self.given.container_id, &self.given.ifname)
            .map_err(bad_name)
    }
}

/// The container ID and interface name were checked with the environment, so this is the network's.
fn bad_name(InvalidName { value, rule, .. }: InvalidName) -> Error {
    let value = if value.is_empty() { "missing".to_owned() } else { quote(&value) };
    Error::Invalid { key: "name".into(), value, allowed: rule.to_owned() }
}
