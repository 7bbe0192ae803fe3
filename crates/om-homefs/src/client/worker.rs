//! A thread that reads requests from the device and has home answer them.
//!
//! Home needs to hear everything but two things. A request that *waits* for a lock is asked as one that does
//! not; home says EAGAIN, and the [`waiter`](super::waiter) asks again: so nothing at home ever waits on behalf
//! of a guest. An INTERRUPT concerns only such a request; all others are over soon anyway.

use std::sync::Arc;

use nix::errno::Errno;

use crate::abi::{self, op};
use crate::frame::Buffer;
use crate::request::Header;

use super::channel::Channel;
use super::device::Taken;
use super::pool::Pool;

/// Answers requests until the session is over.
pub(super) fn work(pool: &Arc<Pool>, number: u16) {
    let queue = match pool.device.queue() {
        Ok(queue) => queue,
        Err(error) => return log::error!("cannot wait for file requests: {error}"),
    };
    let mut channel = Channel::new(pool, number);
    let mut request = Buffer::new();
    loop {
        match pool.device.read(request.message_room()) {
            Taken::Request(length) => handle(pool, &mut channel, &mut request, length),
            Taken::Nothing => {
                pool.idle();
                let go_on = pool.device.wait(&queue);
                pool.busy();
                if !go_on {
                    return;
                }
            }
            Taken::End => return pool.close(),
        }
    }
}

fn handle(pool: &Arc<Pool>, channel: &mut Channel<'_>, request: &mut Buffer, length: usize) {
    let message = request.message(length);
    let Some(header) = Header::parse(message) else {
        return log::error!("the kernel wrote a malformed file request");
    };
    if header.opcode == op::INTERRUPT {
        let interrupted =
            message.get(abi::IN_HEADER..abi::IN_HEADER + 8).and_then(|bytes| bytes.try_into().ok());
        return pool.waiter.interrupt(&pool.device, interrupted.map_or(0, u64::from_ne_bytes));
    }
    match channel.call(request, length, header.unique) {
        Some([]) => {}
        Some(reply) if header.opcode == op::SETLKW && is_taken(reply) => {
            pool.waiter.park(pool, header.unique, request.message(length));
        }
        Some(reply) => pool.device.answer(reply),
        None if header.wants_reply() => pool.device.refuse(header.unique, Errno::EIO),
        None => {}
    }
}

/// Whether a reply says that somebody else holds the lock.
pub(super) fn is_taken(reply: &[u8]) -> bool {
    reply.get(4..8) == Some(&(-(Errno::EAGAIN as i32)).to_ne_bytes())
}
