//! Nothing that an operator does, and nothing that happens to another host, breaks a connection that lives on a
//! living host; and where a host is lost, its clients learn it at once.
//!
//! With smaller numbers than `test-env/bench/connections`, of which one run says more.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use onemac_test_env::Plan;
use onemac_test_env::dns::Counts;
use onemac_test_env::moves::{Kind, Move, Script};
use onemac_test_env::tcp::Load;
use onemac_test_env::tcp::trial::{self, Death, Traffic};

/// One cluster at a time: what waits for a processor waits for no retransmission only by luck.
static ALONE: Mutex<()> = Mutex::new(());

const TRAFFIC: Traffic = Traffic { load: Load { connections: 300, ..Load::USUAL }, newcomers: 50, seed: 1 };

/// A cluster that forgives a machine that stands still for a second or two, as virtual ones do: with the default lease its
/// hosts would all begin anew. The bench has the default.
fn patient(hosts: u8) -> Plan {
    Plan::hosts(hosts).lease("3s")
}

#[test]
fn moves_break_no_connection_and_turn_nobody_away() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Each kind of move at least once.
    let script = Script::random(1, 4, 12, &Kind::ALL);
    let report = trial::moves(&patient(4), &script, TRAFFIC, |row| {
        eprintln!("{row}");
        row.ensure_unnoticed()
    })?;
    ensure!(report.lost() == 0 && report.alive == 0 && report.sent == report.answered, "{report}");
    Ok(())
}

/// On a machine that stands still at the wrong moment, survivors begin anew, and slices move once more after healing: one
/// in ten may be told late here. The bench allows none.
fn nearly_all(death: &Death) -> usize {
    death.had / 10
}

#[test]
fn a_dead_hosts_clients_are_told_at_once_and_nobody_elses() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let death = trial::death(&patient(4), &[], TRAFFIC)?;
    eprintln!("{death}");
    death.ensure_told(nearly_all(&death))
}

/// Two hosts are drained one after the other and keep what they have, so slices of the host that dies have
/// connections on it, on those two, or on all three. Its heirs are silent to what lives elsewhere.
#[test]
fn so_are_those_whose_slices_others_have_connections_of() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let load = Load { connections: 300, addresses: 150, ..Load::USUAL };
    let moves = [Move::Drain(3), Move::Drain(1), Move::Resume(3)];
    let death = trial::death(&patient(4), &moves, Traffic { load, ..TRAFFIC })?;
    eprintln!("{death}");
    ensure!(death.entangled > 50, "{death}");
    death.ensure_told(nearly_all(&death))
}

#[test]
fn drain_resume_weight_and_reload_lose_no_query() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let script = Script::random(2, 3, 6, &[Kind::Drain, Kind::Resume, Kind::Weight, Kind::Reload]);
    let calm = |counts: Counts| {
        ensure!(counts.lost == 0, "without any move: {counts}");
        Ok(())
    };
    trial::queries(&patient(3), &script, 1000, calm, |row| {
        eprintln!("{}: {}", row.done.what, row.counts);
        ensure!(row.counts.lost == 0, "{}: {}", row.done.what, row.counts);
        Ok(())
    })
}
