//! How fast one CPU encrypts and decrypts what goes from keeper to keeper: prints seconds a GiB of each, as JSON. Two ends of
//! TLS 1.3 in one thread, with no network between them.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use om_migd::net::identity::Identity;
use om_migd::net::preamble::{Challenge, JobId, LENGTH, Preamble, Purpose};
use om_migd::net::tls::Stream;
use om_proto::key::ClusterKeys;

const BLOCK: usize = 64 << 10;
const BLOCKS: u32 = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = IpAddr::from([127, 0, 0, 1]);
    let keys = ClusterKeys::parse(&"ab".repeat(32), Path::new("key"))?;
    let identity = Identity::new(&keys, here)?;
    let listener = TcpListener::bind((here, 0))?;
    let address = listener.local_addr()?;
    let other = identity.clone();
    let preamble = Preamble { purpose: Purpose::Move, job: JobId([1; 16]) };
    let answering = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept()?;
        socket.write_all(Challenge::new()?.bytes())?;
        socket.read_exact(&mut [0; LENGTH])?;
        other.accept(socket, &preamble)
    });
    let Stream { tls: mut sender, .. } = identity.connect(address, &preamble)?;
    let Stream { tls: mut receiver, .. } = answering.join().map_err(|_| "the other end has died")??;

    sender.set_buffer_limit(Some(BLOCK));
    let (plain, mut cipher) = (vec![7; BLOCK], Vec::with_capacity(2 * BLOCK));
    let (mut encrypting, mut decrypting) = (Duration::ZERO, Duration::ZERO);
    let mut buffer = vec![0; BLOCK];
    for _ in 0..BLOCKS {
        cipher.clear();
        let begin = Instant::now();
        sender.writer().write_all(&plain)?;
        while sender.wants_write() {
            sender.write_tls(&mut cipher)?;
        }
        encrypting += begin.elapsed();
        let begin = Instant::now();
        let mut rest = cipher.as_slice();
        while !rest.is_empty() {
            receiver.read_tls(&mut rest)?;
            if receiver.process_new_packets()?.plaintext_bytes_to_read() > 0 {
                let _ = receiver.reader().read(&mut buffer)?;
            }
        }
        decrypting += begin.elapsed();
    }
    let gib = f64::from(BLOCKS) * 65_536.0 / 1_073_741_824.0;
    println!(
        "{{\"encrypt_s_per_gib\": {:.3}, \"decrypt_s_per_gib\": {:.3}}}",
        encrypting.as_secs_f64() / gib,
        decrypting.as_secs_f64() / gib
    );
    Ok(())
}
