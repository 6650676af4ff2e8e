//! The bind hook of the pods on the host network that ask for it.

use autoport::cni::{BIND, bind_hook};
use autoport::error::in_one_line;
use autoport::model::{self, Holder, Record};
use autoport::store::{BindHook, BindProgram};

use super::guarded::Guarding;
use crate::cluster::{Reason, Warnings};
use crate::hook::{Hook, Loaded, Unusable, redirects};
use crate::hostnet::{Call, is_of_host};
use crate::nri::Rejection;
use crate::nri::message::Pod;

/// Attaches it, as far as this node has it.
pub(super) struct Binder {
    hook: Result<Hook, Unusable>,
    warnings: Warnings,
}

impl Binder {
    /// Finds out whether this node has it.
    pub(super) fn new(warnings: Warnings) -> Self {
        let hook = Hook::find();
        match &hook {
            Ok(_) => tracing::info!("the bind hook can be attached"),
            Err(reason) => tracing::info!("without the bind hook: {reason}"),
        }
        Self { hook, warnings }
    }

    /// As `agent.json` has it.
    pub(super) fn told(&self) -> BindHook {
        self.hook.as_ref().map_or_else(Unusable::told, |_| BindHook::Usable)
    }

    /// The port guard, which needs the same of the node.
    pub(super) fn guarding(&self) -> Guarding {
        let guard = self.hook.as_ref().map(Hook::guard);
        Guarding::new(guard.map_err(ToString::to_string))
    }

    /// Has what the pod holds given to its programs, if its annotation asks for that.
    ///
    /// # Errors
    /// Why its containers must not run.
    pub(super) fn bind(
        &self,
        pod: &Pod,
        held: &[Record],
        call: &mut Call<'_>,
    ) -> Result<(), Rejection> {
        let Some(value) = pod.annotations.get(BIND) else { return Ok(()) };
        let reject = |text: String| Rejection::new("bind_hook", text);
        let asked = bind_hook(Some(value)).map_err(|error| reject(in_one_line(&error)))?;
        let asked = asked.unwrap_or_default();
        for record in held.iter().filter(|record| is_of_host(record)) {
            let redirects = redirects(&record.grants).map_err(|error| reject(error.to_string()))?;
            if redirects.is_empty() {
                continue;
            }
            let hook = self.hook.as_ref().map_err(ToString::to_string);
            let cgroup = pod.linux.as_ref().map_or("", |linux| &linux.cgroup_parent);
            let attached = hook.and_then(|hook| {
                let attached = hook.attach(cgroup, &pod.uid, redirects, asked.getsockname);
                attached.map_err(|error| error.to_string())
            });
            let attached = attached.map_err(|reason| {
                let text = format!(
                    "cannot attach the bind hook, which annotation {BIND} asks for: {reason}. Without the hook, \
                     write \"http=auto\" in the annotation autoport.cni/ports"
                );
                self.warn(pod, text.clone());
                reject(text)
            })?;
            list(record, attached, call);
        }
        Ok(())
    }

    fn warn(&self, pod: &Pod, text: String) {
        let Pod { namespace, name, uid, .. } = pod.clone();
        self.warnings.warn(model::Pod { namespace, name, uid }, Reason::BindHookFailed, text);
    }
}

/// Writes which programs are attached, for `autoport show`.
fn list(record: &Record, attached: Vec<Loaded>, call: &mut Call<'_>) {
    let Holder::HostPod { pod } = &record.owner.holder else { return };
    if attached.is_empty() {
        return;
    }
    let told = attached.into_iter().map(|one| BindProgram {
        call: format!("{:?}", one.call).to_lowercase(),
        id: one.id,
        instructions: one.program.slots(),
        listing: one.program.to_string(),
    });
    let written =
        call.store.lock(call.log).and_then(|it| it.write_bind_programs(pod, told.collect()));
    if let Err(error) = written {
        tracing::debug!("cannot write programs/{}.json: {}", pod.uid(), in_one_line(&error));
    }
}
