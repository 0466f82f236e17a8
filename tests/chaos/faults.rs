//! Forty faults on one broker while many talk: nothing lost, doubled, skipped or out of order.
//!
//! `natter bench` talks, watches and judges; here everything else is done to the system.

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tests::{PATIENCE, Part, Proxy, Rounds, Stack, Twin, Weather, either, eventually, figure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::owners::unhurried;
use crate::schedule::{Cable, Fault, Victim, schedule};

/// Messages of a schedule.
const MESSAGES: u64 = 50_000;
/// With all its faults and the judging.
const ENDS_WITHIN: Duration = Duration::from_secs(480);
/// Nothing may stand still for longer.
const PATIENCE_S: &str = "120";

/// Everything that can be hurt.
struct House {
    stack: Stack,
    /// One at a time does something to a process.
    twins: [Mutex<Twin>; 3],
    own: [Mutex<()>; 5],
    cables: [Mutex<Proxy>; 4],
}

impl House {
    async fn opens() -> Self {
        let stack = unhurried().start().await;
        let cables = Cable::ALL.map(|cable| match cable {
            Cable::Gateway | Cable::Messages | Cable::History => Proxy::to(stack.nats_url()),
            Cable::Archive => Proxy::to(stack.database_url()),
        });
        let [gateway, messages, history, archive] = &cables;
        let broker = "NATTER_NATS_URL";
        let url = |cable: &Proxy| cable.url(stack.nats_url());
        let database = archive.url(stack.database_url());
        let twins = [
            stack
                .twin_with(Part::Gateway, &[(broker, &url(gateway))])
                .await,
            stack
                .twin_with(Part::Messages, &[(broker, &url(messages))])
                .await,
            stack
                .twin_with(
                    Part::History,
                    &[(broker, &url(history)), ("NATTER_DATABASE_URL", &database)],
                )
                .await,
        ];
        Self {
            twins: twins.map(Mutex::new),
            own: Default::default(),
            cables: cables.map(Mutex::new),
            stack,
        }
    }

    /// Does it, and returns when it is over; what is done to the same thing waits.
    async fn suffers(&self, fault: Fault) {
        match fault {
            Fault::Kill(victim) => match self.whose(victim) {
                Whose::Own(part, lock) => {
                    let _alone = lock.lock().await;
                    self.stack.kills(part).await;
                }
                Whose::Twin(twin) => {
                    let mut twin = twin.lock().await;
                    twin.dies().await;
                    twin.starts_again();
                }
            },
            Fault::Pause(victim, length) => match self.whose(victim) {
                Whose::Own(part, lock) => {
                    let _alone = lock.lock().await;
                    self.stack.freezes(part).await;
                    tokio::time::sleep(length).await;
                    self.stack.thaws(part);
                }
                Whose::Twin(twin) => {
                    let twin = twin.lock().await;
                    twin.freezes().await;
                    tokio::time::sleep(length).await;
                    twin.thaws();
                }
            },
            Fault::Disturb(cable, weather, length) => {
                let number = Cable::ALL.iter().position(|it| *it == cable);
                let cable = &self.cables[number.expect("all are there")];
                let cable = cable.lock().await;
                cable.has(weather);
                tokio::time::sleep(length).await;
                cable.has(Weather::Clear);
            }
        }
    }

    fn whose(&self, victim: Victim) -> Whose<'_> {
        match victim {
            Victim::Gateway => Whose::Own(Part::Gateway, &self.own[0]),
            Victim::Messages => Whose::Own(Part::Messages, &self.own[1]),
            Victim::History => Whose::Own(Part::History, &self.own[2]),
            Victim::Broker => Whose::Own(Part::NatsServer, &self.own[3]),
            Victim::Database => Whose::Own(Part::Postgres, &self.own[4]),
            Victim::OtherGateway => Whose::Twin(&self.twins[0]),
            Victim::OtherMessages => Whose::Twin(&self.twins[1]),
            Victim::OtherHistory => Whose::Twin(&self.twins[2]),
        }
    }
}

enum Whose<'a> {
    Own(Part, &'a Mutex<()>),
    Twin(&'a Mutex<Twin>),
}

/// A running `natter bench`.
struct Bench {
    child: tokio::process::Child,
    acked: watch::Receiver<u64>,
    said: JoinHandle<String>,
}

impl Bench {
    async fn begins(house: &House, seed: u64) -> Self {
        let other = house.twins[0].lock().await.socket_url();
        let (messages, seed) = (MESSAGES.to_string(), seed.to_string());
        #[rustfmt::skip]
        let arguments = [
            "bench", "--json", "--patience-s", PATIENCE_S, "--seed", &seed,
            "--url", house.stack.socket_url(), "--url", &other, "--nats-url", house.stack.nats_url(),
            "--rooms", "6", "--members", "6", "--observers", "8", "--slow", "1",
            "--rate", "0", "--messages", &messages, "--resumes", "2", "--churn", "0.5", "--edits", "5",
        ];
        let mut command = house.stack.natter(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("natter can be started");
        let stderr = child.stderr.take().expect("it was piped");
        let (tells, acked) = watch::channel(0);
        let said = tokio::spawn(async move {
            let (mut lines, mut said) = (BufReader::new(stderr).lines(), String::new());
            while let Ok(Some(line)) = lines.next_line().await {
                let progress: Option<Value> = serde_json::from_str(&line).ok();
                match progress.and_then(|progress| progress["acked"].as_u64()) {
                    Some(acked) => drop(tells.send_replace(acked)),
                    None => said.push_str(&(line + "\n")),
                }
            }
            said
        });
        Self { child, acked, said }
    }

    /// Waits until so many messages are stored; false if it has ended before.
    async fn has_stored(&mut self, count: u64) -> bool {
        self.acked.wait_for(|acked| *acked >= count).await.is_ok()
    }

    /// Waits until it has judged; its report must be clean. Returns how many messages were stored.
    async fn ends_clean(mut self) -> u64 {
        let (mut out, mut stdout) = (
            String::new(),
            self.child.stdout.take().expect("it was piped"),
        );
        let ended = async {
            stdout.read_to_string(&mut out).await?;
            self.child.wait().await
        };
        let status = ended.await.expect("it can be waited for");
        let said = self.said.await.expect("it can be read");
        assert!(status.success(), "{status}\n{out}\n{said}");
        let report: Value = serde_json::from_str(&out).expect("a report");
        let audit = report["audit"].as_object().expect("it judges");
        for what in ["lost", "duplicated", "gaps", "disorder"] {
            println!("{what}: {:?}", audit.get(what));
        }
        let faults: Vec<_> = audit
            .iter()
            .filter(|(_, count)| count.as_u64() != Some(0))
            .collect();
        println!("{audit:?}");
        assert!(
            !audit.is_empty() && faults.iter().all(|(_, it)| !it.is_u64()),
            "{faults:?}"
        );
        report["acked"].as_u64().expect("it counts")
    }
}

/// One schedule; how many messages were stored.
async fn round(seed: u64) -> u64 {
    println!("seed {seed}");
    let house = House::opens().await;
    let mut bench = Bench::begins(&house, seed).await;
    let (mut begun, mut faults) = (0, FuturesUnordered::new());
    for step in schedule(seed, MESSAGES) {
        let reached = bench.has_stored(step.after_acked);
        tokio::pin!(reached);
        let reached = loop {
            tokio::select! {
                reached = &mut reached => break reached,
                Some(()) = faults.next() => {}
            }
        };
        if !reached {
            break;
        }
        println!("{step:?}");
        begun += 1;
        faults.push(house.suffers(step.fault));
    }
    while faults.next().await.is_some() {}
    let acked = bench.ends_clean().await;
    assert_eq!(
        begun,
        crate::schedule::FAULTS,
        "all faults of the schedule happened"
    );
    // And all is well again.
    house.stack.is_ready().await;
    for twin in &house.twins {
        twin.lock().await.is_ready().await;
    }
    acked
}

#[tokio::test]
async fn forty_faults_lose_double_skip_and_disorder_nothing() {
    let first = either(0x6e61_7474, 1_000);
    let mut all = 0;
    for number in Rounds::of("faults", 1, 20) {
        let acked = tokio::time::timeout(ENDS_WITHIN, round(first + number)).await;
        let acked = acked.unwrap_or_else(|_| panic!("seed {} does not end", first + number));
        assert!(acked >= MESSAGES, "{acked} of {MESSAGES}");
        all += acked;
    }
    figure("faults.acked", all);
}

/// The control: each kind of fault is really felt.
#[tokio::test]
async fn a_fault_is_felt() {
    let house = House::opens().await;
    let pid = house.stack.pid(Part::History);
    house.suffers(Fault::Kill(Victim::History)).await;
    assert_ne!(house.stack.pid(Part::History), pid);
    let pid = house.twins[1].lock().await.pid();
    house.suffers(Fault::Kill(Victim::OtherMessages)).await;
    assert_ne!(house.twins[1].lock().await.pid(), pid);
    house.twins[1].lock().await.is_ready().await;
    let pause = Fault::Disturb(Cable::Messages, Weather::Cut, PATIENCE);
    let felt = async {
        let url = house.twins[1].lock().await.ops_url("/readyz");
        eventually(PATIENCE, async || {
            let answer = tests::http::Request::get(url.clone()).try_send().await;
            match answer {
                Ok(answer) if answer.status == 503 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    };
    tokio::select! {
        () = house.suffers(pause) => panic!("a cut cable is not felt"),
        () = felt => {}
    }
}
