//! The session with a runtime, over a real socket: what each side sends, and what a slow, old or hostile
//! runtime can do.

#[expect(dead_code, reason = "other tests use the rest")]
mod runtime;

use std::future::Future;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;

use autoport_agent::nri::message::{
    Adjustment, Container, ContainerCreated, CreateContainer, Pod, PodEvent, Request, StateChange,
    Synchronize, Variable,
};
use autoport_agent::nri::{Answer, Asked, Error, Event, Failure, Identity, Rejection, Session};

use self::runtime::{Connection, PLUGIN, RUNTIME, Runtime};

fn pod(id: &str) -> Pod {
    Pod { id: id.to_owned(), uid: format!("uid-{id}"), ..Pod::default() }
}

async fn open(socket: &Path, index: u8) -> Result<Session, Error> {
    Session::open(socket, &Identity::new("autoport", index).expect("an index")).await
}

/// Runs the agent's side against a runtime that plays `script`.
fn against<T: Send + 'static>(
    script: impl FnOnce(&Runtime) -> T + Send + 'static,
    agent: impl AsyncFnOnce(Session),
) -> T {
    let runtime = Runtime::new();
    let socket = runtime.socket();
    let script = thread::spawn(move || script(&runtime));
    block_on(async {
        agent(open(&socket, 50).await.expect("the runtime listens")).await;
    });
    script.join().expect("the runtime saw what it expected")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of tokio").block_on(work)
}

/// Answers every event with success until the session is over; gives the events and why it is over.
async fn accept_all(mut session: Session) -> (Vec<Event>, Error) {
    let mut events = Vec::new();
    loop {
        let asked = match session.next().await {
            Ok(asked) => asked,
            Err(error) => return (events, error),
        };
        if let Err(error) = session.answer(asked.stream, Ok(Answer::Done)).await {
            return (events, error);
        }
        events.push(asked.event);
    }
}

#[test]
fn it_registers_before_the_runtime_says_anything() {
    for (index, digits) in [(50, "50"), (51, "51"), (5, "05")] {
        let runtime = Runtime::new();
        let socket = runtime.socket();
        let script = thread::spawn(move || {
            let (_, registration) = runtime.accept().registration();
            (registration.plugin_name, registration.plugin_idx)
        });
        let session = block_on(async { open(&socket, index).await.expect("it is accepted") });
        let registered = script.join().expect("the registration arrived");
        assert_eq!(registered, ("autoport".to_owned(), digits.to_owned()));
        drop(session);
    }
    assert!(Identity::new("autoport", 100).is_err());
}

#[test]
fn it_asks_for_four_events_only() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.accept();
        connection.register();
        connection.configure(2000)
    };
    let events = against(script, async |session| {
        accept_all(session).await;
    });
    assert_eq!(events, 0x60f);
}

#[test]
fn a_rejected_registration_is_reported_with_the_runtimes_reason() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.accept();
        let (stream, _) = connection.registration();
        connection.reject(stream, "invalid plugin index \"5\", must be 2 digits");
        connection
    };
    against(script, async |session| {
        let (_, error) = accept_all(session).await;
        assert!(
            matches!(&error, Error::Rejected(reason) if reason.contains("2 digits")),
            "{error}"
        );
    });
}

#[test]
fn a_synchronize_in_parts_is_one_event() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.accept();
        connection.register();
        connection.configure(0);
        let container = Container { id: "c".to_owned(), ..Container::default() };
        let parts = [vec![pod("a"), pod("b")], vec![pod("c")], vec![]];
        for (part, more) in parts.into_iter().zip([true, true, false]) {
            let taken = connection.synchronize(part, vec![container.clone()], more);
            assert_eq!(taken, Ok(more), "a runtime closes the connection for another answer");
        }
    };
    against(script, async |session| {
        let (events, _) = accept_all(session).await;
        let [Event::Synchronized { pods, containers }] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!((pods.len(), containers.len()), (3, 3));
    });
}

#[test]
fn a_synchronize_without_end_is_not_held() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.accept();
        connection.register();
        connection.configure(0);
        let annotations = [("a".to_owned(), "x".repeat(4_000_000))].into();
        let part = Synchronize {
            pods: vec![Pod { annotations, ..pod("a") }],
            more: true,
            ..Synchronize::default()
        };
        let taken = (0..).take_while(|_| connection.call_if_alive("Synchronize", &part).is_some());
        taken.count()
    };
    let taken = against(script, async |session| {
        let (events, error) = accept_all(session).await;
        assert!(events.is_empty() && matches!(error, Error::ListTooLong), "{error:?}");
    });
    assert_eq!(taken, 16, "parts of 4 MB, in 64 MiB");
}

#[test]
fn events_of_old_and_new_runtimes_are_the_same() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        let methods = ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];
        for (event, method) in (1..).zip(methods) {
            let change = StateChange { event, pod: Some(pod("a")), container: None };
            connection.call("StateChange", &change).expect("it is accepted");
            connection.call(method, &PodEvent { pod: Some(pod("a")) }).expect("it is accepted");
        }
        let status = connection.call("StartContainer", &PodEvent::default()).expect_err("unknown");
        assert_eq!(status.code, 12, "{status:?}");
    };
    against(script, async |session| {
        let (events, _) = accept_all(session).await;
        assert_eq!(events.len(), 7);
        assert!(events[1..].chunks(2).all(|pair| pair[0] == pair[1]), "{events:?}");
    });
}

/// A container with 2 MiB of variables, and an answer with those of 1,000 ports.
fn create_large(connection: &mut Connection) -> Adjustment {
    let env = (0..2048).map(|at| format!("V{at}={}", "ä".repeat(510)).into_bytes()).collect();
    let container = Container { env, ..Container::default() };
    let create = CreateContainer { pod: Some(pod("a")), container: Some(container) };
    let payload = connection.call("CreateContainer", &create).expect("it is created");
    ContainerCreated::decode(payload.as_slice()).expect("an answer").adjust.expect("an adjustment")
}

fn thousand_ports() -> Adjustment {
    let variable = |at: usize| {
        let (port, kind) = (at / 4, ["PORT", "HOST_PORT", "ADDR", "COUNT"][at % 4]);
        Variable { name: format!("AUTOPORT_{kind}_P{port}"), value: "192.0.2.1:20000".to_owned() }
    };
    Adjustment { mounts: Vec::new(), env: (0..4000).map(variable).collect() }
}

#[test]
fn large_events_and_answers_arrive_whole_in_frames_of_any_size() {
    for frame in [usize::MAX, 4096, 61] {
        let script = move |runtime: &Runtime| {
            let mut connection = runtime.connect(vec![pod("a")], Vec::new());
            connection.frame = frame;
            create_large(&mut connection)
        };
        let adjusted = against(script, async |mut session| {
            while let Ok(asked) = session.next().await {
                let mut answer = Answer::Done;
                if let Event::CreateContainer { container, .. } = &asked.event {
                    assert_eq!(container.env.iter().map(Vec::len).sum::<usize>() >> 20, 2);
                    answer = Answer::Adjust(thousand_ports());
                }
                session.answer(asked.stream, Ok(answer)).await.expect("the runtime reads");
            }
        });
        assert_eq!(adjusted, thousand_ports());
    }
}

#[test]
fn the_text_of_a_failure_reaches_the_runtime() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        connection.call("RunPodSandbox", &PodEvent { pod: Some(pod("a")) }).expect_err("refused")
    };
    let status = against(script, async |mut session| {
        let synchronized = session.next().await.expect("it is synchronized");
        session.answer(synchronized.stream, Ok(Answer::Done)).await.expect("the runtime reads");
        let run = session.next().await.expect("an event");
        let refused = Failure::Refused(Rejection::new("full", "no free host port"));
        session.answer(run.stream, Err(refused)).await.expect("the runtime reads");
    });
    assert_eq!((status.code, status.message.as_str()), (9, "no free host port"));
}

#[test]
fn an_answer_is_due_in_half_of_what_the_runtime_allows_and_never_after_a_second() {
    let ms = Duration::from_millis;
    for (configured, left, expected) in [
        (0, ms(1999), ms(999)),
        (0, ms(0), ms(1000)),
        (2000, ms(0), ms(1000)),
        (60_000, ms(60_000), ms(1000)),
        (500, ms(0), ms(250)),
        (500, ms(100), ms(50)),
        (100, ms(5000), ms(50)),
    ] {
        let script = move |runtime: &Runtime| {
            let mut connection = runtime.accept();
            connection.register();
            connection.configure(configured);
            let event = PodEvent { pod: Some(pod("a")) };
            connection.call_within("RunPodSandbox", &event, left).expect("it is accepted");
        };
        against(script, async |mut session| {
            let asked: Asked = session.next().await.expect("an event");
            assert_eq!(asked.limit.as_millis(), expected.as_millis(), "{configured} ms, {left:?}");
            session.answer(asked.stream, Ok(Answer::Done)).await.expect("the runtime reads");
        });
    }
}

#[test]
fn what_cannot_be_decoded_is_rejected_and_the_session_goes_on() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        // Field 1, a message of 100 bytes, which are not there.
        let stream = connection.ask("CreateContainer", vec![0x0a, 100, 1], Duration::from_secs(2));
        let status = connection.response(stream).expect_err("no container without its ports");
        assert_eq!(status.code, 3, "{status:?}");
        connection.call("RunPodSandbox", &PodEvent { pod: Some(pod("a")) }).expect("it goes on");
    };
    against(script, async |session| {
        assert_eq!(accept_all(session).await.0.len(), 2);
    });
}

#[test]
fn messages_that_belong_to_no_call_are_ignored() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        let request = Request { method: "RunPodSandbox".to_owned(), ..Request::default() };
        connection.send(9, 1, 1, &request.encode_to_vec());
        connection.send(RUNTIME, 3, 2, b"\xff\xff");
        connection.send(RUNTIME, 5, 1, &request.encode_to_vec());
        connection.send(PLUGIN, 1, 2, b"\xff\xff");
        connection.send(PLUGIN, 1, 3, b"a stream");
        connection.write(&[0, 0, 0, 1, 0, 0, 0, 0]);
        connection.call("RunPodSandbox", &PodEvent { pod: Some(pod("a")) }).expect("it goes on");
    };
    against(script, async |session| {
        assert_eq!(accept_all(session).await.0.len(), 2);
    });
}

#[test]
fn a_session_that_cannot_go_on_ends() {
    type Ends = (fn(&mut Connection), fn(&Error) -> bool);
    let ends: [Ends; 4] = [
        (
            |connection| connection.write(&[0, 0, 0, 1, 0xff, 0, 0, 0]),
            |error| matches!(error, Error::Frame { .. }),
        ),
        (
            |connection| connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            |error| matches!(error, Error::Frame { .. }),
        ),
        (
            |connection| connection.write(&[0, 0, 0, 1, 0, 0, 0, 100, 0, 0]),
            |error| matches!(error, Error::Closed),
        ),
        (|_| {}, |error| matches!(error, Error::Closed)),
    ];
    for (script, expected) in ends {
        let script = move |runtime: &Runtime| {
            script(&mut runtime.connect(Vec::new(), Vec::new()));
        };
        against(script, async |session| {
            let (_, error) = accept_all(session).await;
            assert!(expected(&error), "{error:?}");
        });
    }
}

#[test]
fn a_runtime_that_does_not_read_keeps_nobody_waiting() {
    let script = |runtime: &Runtime| {
        let mut connection = runtime.connect(Vec::new(), Vec::new());
        let create = CreateContainer { pod: Some(pod("a")), container: None };
        connection.ask("CreateContainer", create.encode_to_vec(), Duration::from_secs(2));
        thread::sleep(Duration::from_secs(4));
    };
    against(script, async |mut session| {
        let synchronized = session.next().await.expect("it is synchronized");
        session.answer(synchronized.stream, Ok(Answer::Done)).await.expect("the runtime reads");
        let asked = session.next().await.expect("an event");
        let value = "x".repeat(3 << 20);
        let env = vec![Variable { name: "A".to_owned(), value }];
        let begun = Instant::now();
        let answer = Answer::Adjust(Adjustment { mounts: Vec::new(), env });
        let error = session.answer(asked.stream, Ok(answer)).await.expect_err("it does not fit");
        assert!(matches!(error, Error::Stuck), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    });
}
