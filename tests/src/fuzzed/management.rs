//! The management socket and the configuration file.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;
use vswitch_ovsdb::journal::{DamageKind, encode, replay};
use vswitch_ovsdb::jsonrpc::{FrameLimits, Framer, Message};
use vswitch_ovsdb::schema::vswitch_schema;
use vswitch_ovsdb::{Db, NoMethods, Server, ServerHandle};

/// Sends `data` to a management socket over an Open_vSwitch database.
///
/// Invariants: where a stream is cut makes no difference to the messages in it; the server answers or hangs up and then
/// serves the next client.
pub fn json_rpc(data: &[u8]) {
    let (cut, bytes) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
    let whole = Framer::new(FrameLimits::default()).feed(bytes);
    let (front, back) = bytes.split_at(bytes.len().min(cut));
    let mut framer = Framer::new(FrameLimits::default());
    let pieces = framer.feed(front).and_then(|mut messages| {
        messages.extend(framer.feed(back)?);
        Ok(messages)
    });
    // After an error the stream is lost either way, but how much was understood before depends on the reads.
    assert_eq!(whole.is_ok(), pieces.is_ok(), "a cut after {} bytes changes the outcome", front.len());
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        assert_eq!(whole, pieces, "a cut after {} bytes changes the messages", front.len());
        for message in whole {
            let _ = Message::from_json(message);
        }
    }

    let socket = server();
    exchange(socket, bytes);
    let answer = exchange(socket, br#"{"id":0,"method":"echo","params":["alive"]}"#);
    assert!(answer.contains("alive"), "the server does not serve the next client: {answer:?}");
}

/// A server for the life of the process.
fn server() -> &'static PathBuf {
    static SERVER: OnceLock<(PathBuf, ServerHandle, TempDir)> = OnceLock::new();
    let (path, ..) = SERVER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sock");
        let db = Db::in_memory(vswitch_schema());
        let handle = Server::start(&db, &path, Arc::new(NoMethods)).unwrap();
        (path, handle, folder)
    });
    path
}

/// Sends bytes, says that no more come, and reads what comes back until the server hangs up.
fn exchange(socket: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may hang up in the middle of nonsense.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("the server hangs"),
            // libFuzzer's timer.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads `data` as a journal and opens a database on it.
///
/// Invariants: reading stops inside the file; what was read, written again, reads the same; cutting that anywhere is at
/// most a torn tail; a database opens on the file or says why not, and opens again after its own repair.
pub fn journal(data: &[u8]) {
    let first = replay(data);
    assert!(first.good <= data.len());
    assert_eq!(first.damage.is_none(), first.good == data.len(), "damage and where reading stopped disagree");

    let again: Vec<u8> = first.records.iter().flat_map(encode).collect();
    let second = replay(&again);
    assert!(second.damage.is_none(), "an encoded journal is damaged: {:?}", second.damage);
    assert_eq!(first.records, second.records);
    let cut = data.len() % (again.len() + 1);
    if let Some(damage) = replay(again.get(..cut).unwrap_or_default()).damage {
        assert_eq!(damage.kind, DamageKind::TornTail, "cut after {cut} bytes: {}", damage.what);
    }

    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("conf.db");
    fs::write(&path, data).unwrap();
    if let Ok((db, _)) = Db::open(&path, vswitch_schema()) {
        drop(db);
        let (_, warnings) = Db::open(&path, vswitch_schema()).unwrap();
        assert!(
            warnings.is_empty(),
            "opening repaired the file, and the next opening complains: {warnings:?}"
        );
    }
}
