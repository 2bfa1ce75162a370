//! What an agent keeps in the run directory for the next one on this boot: `life.json`.

use std::fs;
use std::path::{Path, PathBuf};

use onemac_core::node::Memory;
use onemac_core::view::DefinitionId;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::files;
use crate::gossip::VERSION;

/// The file's form. Another number, or anything that is not understood, counts as no file.
const FORM: u32 = 1;

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
}

impl Keeper {
    /// Nothing is kept yet; what was kept before is still there.
    pub fn new(run_dir: &Path, host: &str, definition: DefinitionId) -> Self {
        let life =
            Life { form: FORM, boot: boot(), host: host.into(), definition, speaks: VERSION, memory: None };
        Keeper { path: path(run_dir), life }
    }

    /// What the last agent kept, if it is of this boot, this host and this definition. A life that spoke another
    /// version of the protocol can not go on: the others would hear that a newer one serves.
    pub fn found(&self) -> Option<Life> {
        let mut life: Life = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let same = (life.form, &life.boot, &life.host, life.definition)
            == (FORM, &self.life.boot, &self.life.host, self.life.definition);
        if life.speaks != VERSION {
            life.memory = None;
        }
        same.then_some(life)
    }

    /// Keeps this from now on.
    pub fn keep(&mut self, memory: Option<Box<Memory>>) -> Result<()> {
        self.life.memory = memory;
        self.write()
    }

    /// The kernel is set up by another definition from now on.
    pub fn change_definition(&mut self, definition: DefinitionId) -> Result<()> {
        self.life.definition = definition;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let bytes = serde_json::to_vec(&self.life).map_err(Failure::failed)?;
        files::replace(&self.path, &bytes).map_err(|e| {
            Failure::failed(format_args!(
                "can not keep what a next agent needs in {}: {e}",
                self.path.display()
            ))
        })
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

    #[test]
    fn what_is_kept_is_found_by_the_same_host_and_definition_only() {
        let dir = std::env::temp_dir().join(format!("onemac-life-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let id = DefinitionId([1; 16]);
        let mut keeper = Keeper::new(&dir, "a", id);
        assert_eq!(keeper.found(), None);
        let memory = Box::new(Memory {
            incarnation: 3,
            seq_limit: 10_000,
            definition: id,
            weight: 1,
            drained: Default::default(),
            members: Default::default(),
            gone: Default::default(),
            orphaned: Default::default(),
            orphaned_until: Default::default(),
            known: Default::default(),
        });
        keeper.keep(Some(memory.clone())).unwrap();
        assert_eq!(Keeper::new(&dir, "a", id).found().unwrap().memory, Some(memory));
        keeper.life.speaks += 1;
        keeper.write().unwrap();
        assert_eq!(Keeper::new(&dir, "a", id).found().unwrap().memory, None);
        assert_eq!(Keeper::new(&dir, "b", id).found(), None);
        assert_eq!(Keeper::new(&dir, "a", DefinitionId([2; 16])).found(), None);
        fs::write(dir.join("life.json"), b"{").unwrap();
        assert_eq!(keeper.found(), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
