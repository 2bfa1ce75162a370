//! What the benches watch while agents live: what their logs say, what processor time they take, and whether the
//! machine itself stood still.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::libc;
use nix::unistd::Pid;

use crate::host::Host;
use crate::numbered::{BEFORE_AGENTS, be_urgent};

/// What went wrong, by the agents' logs, in the words of the agent's story.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signs {
    /// A host was held for dead.
    pub deaths: usize,
    /// A lease was not confirmed for as long as it lasts.
    pub lapses: usize,
    /// A process did not run for as long as its lease lasts.
    pub stalls: usize,
}

impl Signs {
    /// What this line of a log tells.
    pub fn note(&mut self, line: &str) {
        self.deaths += usize::from(line.contains(" is gone: silent for "));
        self.lapses += usize::from(line.contains("the others did not confirm our heartbeats"));
        self.stalls += usize::from(line.contains("this process did not run for "));
    }
}

/// How long the host's log is now.
///
/// # Errors
/// When there is none.
pub fn log_length(host: &Host) -> Result<usize> {
    Ok(usize::try_from(fs::metadata(host.agent_log_path())?.len())?)
}

/// The lines that the host's log has got since it was so long.
///
/// # Errors
/// When there is none.
pub fn logged_since(host: &Host, length: usize) -> Result<Vec<String>> {
    let text = fs::read(host.agent_log_path())?;
    let new = String::from_utf8_lossy(text.get(length..).unwrap_or_default()).into_owned();
    Ok(new.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Looks every millisecond, before all ordinary programs, how much later it is.
#[derive(Debug)]
pub struct Stills {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stills {
    /// Begins to look.
    #[must_use]
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = spawn({
            let stop = Arc::clone(&stop);
            move || {
                be_urgent(BEFORE_AGENTS);
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    sleep(Duration::from_millis(1));
                    longest = longest.max(before.elapsed());
                }
                longest
            }
        });
        Self { stop, thread }
    }

    /// The longest time for which the machine stood still.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub fn longest(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that looks at the clock panicked"))
    }
}

/// Gives the calling thread, and what it starts from then on, this niceness: -20 to 19. Who watches a busy machine must
/// get his share of it.
///
/// # Errors
/// When the caller is not root.
pub fn be_nice(niceness: i32) -> Result<()> {
    // SAFETY: a plain system call on numbers; 0 names the calling thread.
    let status = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if status != 0 {
        return Err(std::io::Error::last_os_error()).context("could not change the niceness");
    }
    Ok(())
}

/// Processor time of a process so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// It ran.
    pub ran: Duration,
    /// It stood ready and waited for a processor.
    pub waited: Duration,
}

impl Usage {
    /// Of all threads of a process, by the scheduler's own count (proc(5), schedstat: nanoseconds).
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: Pid) -> Result<Self> {
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut fields = text.split_whitespace().map(str::parse::<u64>);
            let mut next =
                || fields.next().context("schedstat is too short")?.context("schedstat has no number");
            usage.ran += Duration::from_nanos(next()?);
            usage.waited += Duration::from_nanos(next()?);
        }
        Ok(usage)
    }

    /// Of the host's agent.
    ///
    /// # Errors
    /// When it has none.
    pub fn of_agent(host: &Host) -> Result<Self> {
        Self::of(host.agent_pid().context("no agent")?)
    }
}

/// For what part of a span processes ran and waited, one after the other, in per cent of a processor.
#[must_use]
pub fn percents(before: &[Usage], after: &[Usage], span: Duration) -> (Vec<f64>, Vec<f64>) {
    let percent = |part: Duration| part.as_secs_f64() / span.as_secs_f64() * 100.0;
    let both = before.iter().zip(after);
    both.map(|(before, after)| (percent(after.ran - before.ran), percent(after.waited - before.waited)))
        .unzip()
}

/// Their mean.
#[must_use]
pub fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}
