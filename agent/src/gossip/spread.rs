//! Anti-entropy: chitchat on top of the wire.
//!
//! A body reaches every host in the end, whatever was lost, by way of others if need be. That a host lives is told by its
//! heartbeats alone, and by the core: chitchat's own failure detector only picks whom it gossips with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable, FailureDetectorConfig,
    Serializable, spawn_chitchat,
};
use tokio::sync::{Mutex, mpsc};

use super::seal::Kind;
use super::wire::{Datagram, Wire};

/// The one key of every host.
const KEY: &str = "body";

/// How often. Whatever is lost is asked for at the next heartbeat; this is for what nobody knows to ask for.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A longer value is not spread: chitchat never replicates one of 64 KiB, and holds up all that follows it.
const VALUE_MAX: usize = 48 << 10;

/// Suspicion at which chitchat gossips less with a host: 6 to 8 intervals.
const PHI: f64 = 8.0;

/// What this host spreads, and the task that does.
pub struct Spread {
    handle: ChitchatHandle,
}

/// Who a host is among the gossips.
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The host's name.
    pub host: String,
    /// Its gossip address.
    pub address: SocketAddr,
    /// This run; grows with every start.
    pub incarnation: u64,
}

impl Spread {
    /// Starts gossiping over `wire` with `seeds`. Datagrams come in by `incoming`, words of others go out by `words`.
    pub async fn start(
        me: Identity,
        seeds: &[SocketAddr],
        wire: Arc<Wire>,
        incoming: mpsc::Receiver<Datagram>,
        words: mpsc::UnboundedSender<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(me.host.clone(), me.incarnation, me.address),
            cluster_id: me.cluster,
            gossip_interval: INTERVAL,
            listen_addr: me.address,
            seed_nodes: seeds.iter().map(ToString::to_string).collect(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                initial_interval: INTERVAL,
                max_interval: INTERVAL * 20,
                dead_node_grace_period: Duration::from_secs(3600),
                ..FailureDetectorConfig::default()
            },
            marked_for_deletion_grace_period: Duration::from_secs(3600),
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let transport = WireTransport { wire, incoming: Mutex::new(Some(incoming)) };
        let handle = spawn_chitchat(config, Vec::new(), &transport).await?;
        handle
            .with_chitchat(|chitchat| {
                let words = words.clone();
                let listener = chitchat.subscribe_event(KEY, move |event| {
                    if let Ok(word) = BASE64.decode(event.value) {
                        let _ = words.send(word);
                    }
                });
                listener.forever();
            })
            .await;
        Ok(Spread { handle })
    }

    /// Puts our newest body where the next round finds it.
    pub async fn publish(&self, word: &[u8]) {
        let value = BASE64.encode(word);
        if value.len() > VALUE_MAX {
            return;
        }
        self.handle.with_chitchat(|c| c.self_node_state().set(KEY, value.as_str())).await;
    }

    /// Waits until gossiping has ended, which it should not.
    pub fn ended(&self) -> impl Future<Output = anyhow::Result<()>> + use<> {
        self.handle.termination_watcher()
    }
}

struct WireTransport {
    wire: Arc<Wire>,
    incoming: Mutex<Option<mpsc::Receiver<Datagram>>>,
}

#[async_trait]
impl Transport for WireTransport {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let incoming = self.incoming.lock().await.take();
        let incoming = incoming.ok_or_else(|| anyhow::anyhow!("the gossip transport is open already"))?;
        Ok(Box::new(WireSocket { wire: Arc::clone(&self.wire), incoming }))
    }
}

struct WireSocket {
    wire: Arc<Wire>,
    incoming: mpsc::Receiver<Datagram>,
}

#[async_trait]
impl Socket for WireSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.wire.send(to, Kind::Gossip, &message.serialize_to_vec());
        Ok(())
    }

    // Cancelled on every round by chitchat's select: the queue keeps what was not taken.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (from, bytes) =
                self.incoming.recv().await.ok_or_else(|| anyhow::anyhow!("the gossip socket is gone"))?;
            if let Ok(message) = ChitchatMessage::deserialize(&mut bytes.as_slice()) {
                return Ok((from, message));
            }
        }
    }
}
