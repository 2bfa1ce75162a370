//! What an agent keeps in the run directory for the next one on this boot: `life.json`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use onemac_core::node::Memory;
use onemac_core::view::DefinitionId;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::gossip::VERSION;
use crate::warnings::Warnings;

/// The file's form. Another number, or anything that is not understood, counts as no file.
const FORM: u32 = 1;

/// Key of the warning that nothing can be kept.
const WARNING: &str = "life";

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    form: u32,
    /// The kernel's name of this boot: what is kept is worth nothing after it.
    boot: String,
    /// The host.
    pub host: String,
    /// The definition by which the kernel was set up.
    pub definition: DefinitionId,
    /// The version of the protocol that it spoke.
    speaks: u8,
    /// The host's life, if it can go on.
    pub memory: Option<Box<Memory>>,
}

/// Where and for whom.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    life: Life,
    warnings: Warnings,
}

impl Keeper {
    /// Nothing is kept yet; what was kept before is still there.
    pub fn new(run_dir: &Path, host: &str, definition: DefinitionId, warnings: Warnings) -> Self {
        let life =
            Life { form: FORM, boot: boot(), host: host.into(), definition, speaks: VERSION, memory: None };
        Keeper { path: path(run_dir), life, warnings }
    }

    /// What the last agent kept, if it is of this boot, this host and this definition. A life that spoke another
    /// version of the protocol cannot go on: the others would hear that a newer one serves.
    pub fn found(&self) -> Option<Life> {
        let mut life: Life = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let same = (life.form, &life.boot, &life.host, life.definition)
            == (FORM, &self.life.boot, &self.life.host, self.life.definition);
        if life.speaks != VERSION {
            life.memory = None;
        }
        same.then_some(life)
    }

    /// Keeps this from now on; whether it could.
    pub fn keep(&mut self, memory: Option<Box<Memory>>) -> bool {
        self.life.memory = memory;
        self.write()
    }

    /// The kernel is set up by another definition from now on.
    pub fn change_definition(&mut self, definition: DefinitionId) {
        self.life.definition = definition;
        self.write();
    }

    /// What cannot be kept leaves nothing: a next agent that finds an earlier life would say what the others have
    /// long heard otherwise.
    fn write(&self) -> bool {
        let kept = serde_json::to_vec(&self.life)
            .map_err(Into::into)
            .and_then(|bytes| files::replace(&self.path, &bytes));
        let Err(why) = kept else {
            self.warnings.clear(WARNING);
            return true;
        };
        let (file, dir) = (self.path.display(), self.path.parent().unwrap_or(&self.path).display());
        let what = format!("cannot keep what a next agent needs in {file}: {why}");
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => self.warnings.raise(
                WARNING,
                format!("{what}; and what stands there is out of date and cannot be removed: {error}"),
                format!("make {dir} writable, and remove {file} before an agent is started"),
            ),
            _ => self.warnings.raise(
                WARNING,
                format!("{what}; an agent that is started anew begins a new life"),
                format!("make room in {dir}, which should be on a tmpfs, as /run is (--run-dir)"),
            ),
        }
        false
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("life.json")
}

/// Forgets what was kept: nothing of the agent is left in the kernel.
pub fn forget(run_dir: &Path) {
    let _ = fs::remove_file(path(run_dir));
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn memory(definition: DefinitionId) -> Box<Memory> {
        Box::new(Memory {
            incarnation: 3,
            seq_limit: 10_000,
            definition,
            weight: 1,
            drained: Default::default(),
            members: Default::default(),
            gone: Default::default(),
            orphaned: Default::default(),
            orphaned_until: Default::default(),
            known: Default::default(),
        })
    }

    fn mount(arguments: &[&str], on: &Path) {
        assert!(Command::new("mount").args(arguments).arg(on).status().unwrap().success(), "{arguments:?}");
    }

    /// An earlier life than the others have heard of is worse than none.
    #[test]
    fn what_cannot_be_kept_leaves_nothing_or_is_told() {
        // For this thread and what it starts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(&["--make-rprivate"], Path::new("/"));
        let dir = std::env::temp_dir().join(format!("onemac-life-full-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], &dir);
        let id = DefinitionId([1; 16]);
        let warnings = Warnings::default();
        let mut keeper = Keeper::new(&dir, "a", id, warnings.clone());
        let said = || warnings.list().into_iter().map(|w| w.what + "; " + &w.advice).collect::<String>();
        assert!(keeper.keep(Some(memory(id))));

        // To the last byte: a disk that is full takes no part of a file either.
        let _ = fs::write(dir.join("large"), vec![0; 1 << 20]);
        assert!(!keeper.keep(Some(memory(id))));
        assert_eq!(keeper.found(), None);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "the large file alone");
        assert!(said().contains("life.json") && said().contains("begins a new life"), "{}", said());
        fs::remove_file(dir.join("large")).unwrap();
        assert!(keeper.keep(Some(memory(id))));
        assert_eq!(said(), "");

        mount(&["-o", "remount,ro"], &dir);
        assert!(!keeper.keep(None));
        let file = dir.join("life.json").display().to_string();
        assert!(said().contains(&format!("remove {file} before an agent is started")), "{}", said());
        mount(&["-o", "remount,rw"], &dir);
        assert!(keeper.keep(None));
        assert_eq!(said(), "");
        assert!(Command::new("umount").arg(&dir).status().unwrap().success());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_kept_is_found_by_the_same_host_and_definition_only() {
        let dir = std::env::temp_dir().join(format!("onemac-life-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let id = DefinitionId([1; 16]);
        let new = |host, id| Keeper::new(&dir, host, id, Warnings::default());
        let mut keeper = new("a", id);
        assert_eq!(keeper.found(), None);
        let memory = memory(id);
        assert!(keeper.keep(Some(memory.clone())));
        assert_eq!(new("a", id).found().unwrap().memory, Some(memory));
        keeper.life.speaks += 1;
        assert!(keeper.write());
        assert_eq!(new("a", id).found().unwrap().memory, None);
        assert_eq!(new("b", id).found(), None);
        assert_eq!(new("a", DefinitionId([2; 16])).found(), None);
        fs::write(dir.join("life.json"), b"{").unwrap();
        assert_eq!(keeper.found(), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
