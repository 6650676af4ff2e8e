//! Calls of the runtime and the agent's answers, as values. No I/O.

use prost::Message as _;

use super::frame::{Kind, Message, Service};
use super::message::{
    Adjustment, Configure, Configured, Container, ContainerCreated, CreateContainer, Pod, PodEvent,
    RegisterPlugin, Request, Response, StateChange, Status, Synchronize, Synchronized,
};

/// What the agent is told about: `RunPodSandbox`, `StopPodSandbox`, `RemovePodSandbox`, `CreateContainer`,
/// `StopContainer`, which is sent also where a container ends by itself, and `RemoveContainer`. A runtime closes the
/// connection of a plugin that asks for an event unknown to it.
pub(super) const EVENTS: i32 = 0b110_0000_1111;

/// `RemovePodSandbox` alone: for the runtime no event at all means every event.
pub(super) const FEWEST_EVENTS: i32 = 0b100;

/// The numbers in a [`StateChange`].
const RUN: i32 = 1;
const STOP: i32 = 2;
const REMOVE: i32 = 3;
const REMOVE_CONTAINER: i32 = 11;

/// Status codes, which are those of gRPC.
const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const FAILED_PRECONDITION: i32 = 9;
/// Lets the runtime send a [`StateChange`] in place of the call, or go on without the agent's answer.
const UNIMPLEMENTED: i32 = 12;

/// What happens on the node. The runtime waits for the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Everything that exists when the agent connects. Events follow from then on.
    Synchronized { pods: Vec<Pod>, containers: Vec<Container> },
    /// A sandbox was set up, with its network. An error removes it.
    RunPodSandbox(Pod),
    /// A pod has ended.
    StopPodSandbox(Pod),
    /// What is left of a pod is removed; it may have been stopped a long time ago, or never.
    RemovePodSandbox(Pod),
    /// A container is about to be created, also at each restart. An error prevents it.
    CreateContainer { pod: Pod, container: Container },
    /// A container was stopped, has ended or is removed. Nothing depends on the answer.
    ContainerEnded { id: String },
}

impl Event {
    /// Its name in the protocol.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Synchronized { .. } => "Synchronize",
            Self::RunPodSandbox(_) => "RunPodSandbox",
            Self::StopPodSandbox(_) => "StopPodSandbox",
            Self::RemovePodSandbox(_) => "RemovePodSandbox",
            Self::CreateContainer { .. } => "CreateContainer",
            Self::ContainerEnded { .. } => "StopContainer",
        }
    }
}

/// The answer to an [`Event`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    /// To [`Event::CreateContainer`].
    Adjust(Adjustment),
}

/// An event that the agent does not permit. The text arrives in the pod's events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Refused(Rejection),
    /// The runtime would drop the agent, and go on without it, if it waited longer.
    #[error(
        "autoport-agent did not finish in {limit_ms} ms and rejects the request so that the pod does \
         not start without its host ports; kubelet repeats it"
    )]
    Late { limit_ms: u128 },
}

/// Why a pod has to wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Rejection {
    /// The kind of reason in one word, which is counted.
    pub kind: &'static str,
    pub text: String,
}

impl Rejection {
    pub fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// A call of the runtime.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Configure(Configure),
    Synchronize(Synchronize),
    Event(Box<Event>),
    /// Succeeds and has no effect.
    Ignored,
    /// Not one of the agent's.
    Unknown,
}

impl Call {
    /// # Errors
    /// When the payload is not that of the method.
    pub fn of(request: &Request) -> Result<Self, prost::DecodeError> {
        let payload = request.payload.as_slice();
        let pod = || PodEvent::decode(payload).map(|event| event.pod.unwrap_or_default());
        let event = |event| Self::Event(Box::new(event));
        Ok(match request.method.as_str() {
            "Configure" => Self::Configure(Configure::decode(payload)?),
            "Synchronize" => Self::Synchronize(Synchronize::decode(payload)?),
            "Shutdown" => Self::Ignored,
            "RunPodSandbox" => event(Event::RunPodSandbox(pod()?)),
            "StopPodSandbox" => event(Event::StopPodSandbox(pod()?)),
            "RemovePodSandbox" => event(Event::RemovePodSandbox(pod()?)),
            "CreateContainer" => {
                let CreateContainer { pod, container } = CreateContainer::decode(payload)?;
                let (pod, container) = (pod.unwrap_or_default(), container.unwrap_or_default());
                event(Event::CreateContainer { pod, container })
            }
            "StopContainer" | "RemoveContainer" => {
                // Its fields are the same.
                event(ended(CreateContainer::decode(payload)?.container))
            }
            "StateChange" => {
                let StateChange { event: number, pod, container } = StateChange::decode(payload)?;
                let pod = pod.unwrap_or_default();
                match number {
                    RUN => event(Event::RunPodSandbox(pod)),
                    STOP => event(Event::StopPodSandbox(pod)),
                    REMOVE => event(Event::RemovePodSandbox(pod)),
                    REMOVE_CONTAINER => event(ended(container)),
                    _ => Self::Ignored,
                }
            }
            _ => Self::Unknown,
        })
    }
}

fn ended(container: Option<Container>) -> Event {
    Event::ContainerEnded { id: container.unwrap_or_default().id }
}

/// The message that registers the agent; everything else follows from the runtime's side.
pub(super) fn registration(stream: u32, name: &str, index: &str) -> Message {
    let payload = RegisterPlugin { plugin_name: name.to_owned(), plugin_idx: index.to_owned() };
    let request = Request {
        service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
        method: "RegisterPlugin".to_owned(),
        payload: payload.encode_to_vec(),
        timeout_nano: 0,
    };
    let (service, kind) = (Service::Runtime, Kind::Request);
    Message { service, stream, kind, body: request.encode_to_vec() }
}

/// The answer to [`Configure`].
pub(super) fn configured(stream: u32, events: i32) -> Message {
    success(stream, Configured { events }.encode_to_vec())
}

/// The answer to a part of [`Synchronize`] that is not the last.
pub(super) fn part_taken(stream: u32) -> Message {
    success(stream, Synchronized { more: true }.encode_to_vec())
}

/// The answer to a call that needs none.
pub(super) fn nothing(stream: u32) -> Message {
    success(stream, Vec::new())
}

/// The answer to an event.
pub(super) fn answer(stream: u32, answer: Result<Answer, Failure>) -> Message {
    match answer {
        Ok(Answer::Done) => nothing(stream),
        Ok(Answer::Adjust(adjust)) => {
            success(stream, ContainerCreated { adjust: Some(adjust) }.encode_to_vec())
        }
        Err(failure) => {
            let code = match failure {
                Failure::Refused(_) => FAILED_PRECONDITION,
                Failure::Late { .. } => DEADLINE_EXCEEDED,
            };
            failed(stream, code, failure.to_string())
        }
    }
}

/// The answer to a method that the agent does not have.
pub(super) fn unknown(stream: u32, method: &str) -> Message {
    failed(stream, UNIMPLEMENTED, format!("autoport-agent has no method {}", method.escape_debug()))
}

/// The answer to a call that cannot be decoded.
pub(super) fn undecodable(stream: u32, error: &prost::DecodeError) -> Message {
    failed(stream, INVALID_ARGUMENT, format!("autoport-agent cannot decode the request: {error}"))
}

/// Why the runtime rejected a request of the agent; `None` if it succeeded.
pub(super) fn rejection(body: &[u8]) -> Result<Option<String>, prost::DecodeError> {
    let status = Response::decode(body)?.status;
    Ok(status.filter(|status| status.code != OK).map(|status| status.message))
}

fn success(stream: u32, payload: Vec<u8>) -> Message {
    response(stream, &Response { status: None, payload })
}

fn failed(stream: u32, code: i32, message: String) -> Message {
    response(stream, &Response { status: Some(Status { code, message }), payload: Vec::new() })
}

fn response(stream: u32, response: &Response) -> Message {
    let (service, kind) = (Service::Plugin, Kind::Response);
    Message { service, stream, kind, body: response.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, payload: Vec<u8>) -> Call {
        let request = Request { method: method.to_owned(), payload, ..Request::default() };
        Call::of(&request).expect("it can be decoded")
    }

    fn pod() -> Pod {
        Pod { id: "s1".into(), uid: "u1".into(), ..Pod::default() }
    }

    #[test]
    fn an_event_is_the_same_by_either_call() {
        type Named = (i32, &'static str, fn(Pod) -> Event);
        let named: [Named; 3] = [
            (1, "RunPodSandbox", Event::RunPodSandbox),
            (2, "StopPodSandbox", Event::StopPodSandbox),
            (3, "RemovePodSandbox", Event::RemovePodSandbox),
        ];
        for (event, method, expected) in named {
            let own = call(method, PodEvent { pod: Some(pod()) }.encode_to_vec());
            let change = StateChange { event, pod: Some(pod()), container: None }.encode_to_vec();
            assert_eq!(own, Call::Event(Box::new(expected(pod()))));
            assert_eq!(call("StateChange", change), own);
        }
        let container = Some(Container { id: "c1".into(), ..Container::default() });
        let change = StateChange { event: 11, pod: None, container: container.clone() };
        let own = CreateContainer { pod: None, container }.encode_to_vec();
        let expected = Call::Event(Box::new(Event::ContainerEnded { id: "c1".into() }));
        assert_eq!(call("StateChange", change.encode_to_vec()), expected);
        assert_eq!(call("RemoveContainer", own.clone()), expected);
        assert_eq!(call("StopContainer", own), expected);
        let later = StateChange { event: 12, ..StateChange::default() }.encode_to_vec();
        assert_eq!(call("StateChange", later), Call::Ignored);
    }

    #[test]
    fn variables_need_not_be_utf8() {
        let container = Container { env: vec![b"A=\xff".to_vec()], ..Container::default() };
        let create = CreateContainer { pod: Some(pod()), container: Some(container.clone()) };
        let seen = call("CreateContainer", create.encode_to_vec());
        let expected = Event::CreateContainer { pod: pod(), container };
        assert_eq!(seen, Call::Event(Box::new(expected)));
    }

    #[test]
    fn an_unknown_method_has_the_status_that_runtimes_accept() {
        assert_eq!(call("StartContainer", Vec::new()), Call::Unknown);
        let response = Response::decode(unknown(3, "StartContainer").body.as_slice());
        let status = response.expect("a response").status.expect("an error");
        assert_eq!((status.code, status.message.contains("StartContainer")), (12, true));
    }

    #[test]
    fn a_failure_is_not_a_success() {
        for failure in
            [Failure::Refused(Rejection::new("full", "no")), Failure::Late { limit_ms: 1000 }]
        {
            let text = failure.to_string();
            let message = answer(5, Err(failure));
            assert_eq!(rejection(&message.body).expect("a response"), Some(text));
        }
        let done = answer(5, Ok(Answer::Done));
        assert_eq!(rejection(&done.body).expect("a response"), None);
    }
}
