//! What a keeper does where a job is a guest: the link home, the streams on their way, the home file system's mount.

use std::sync::Arc;
use std::time::Instant;

use crate::bytes::Bytes;
use crate::net::link::Sender;
use crate::net::message::{FromHome, ToHome};
use crate::stdio::away_input::AwayInput;
use crate::stdio::away_output::{AwayOutput, SendOutput};
use crate::stdio::{INPUTS, InputState, OUTPUTS, OutputState};

/// The job's stay away from home.
pub struct Guest {
    /// The epoch that this node has, or wants.
    pub epoch: u64,
    /// The link home, while there is one.
    pub link: Option<Sender>,
    /// Since when there has been none.
    pub lost: Option<Instant>,
    /// Input on its way.
    pub inputs: [Option<AwayInput>; INPUTS],
    /// Output on its way.
    pub outputs: [Option<AwayOutput>; OUTPUTS],
    /// The home file system's session.
    pub files: Option<Arc<om_homefs::client::Session>>,
    /// Where each output ended when the last process had gone.
    pub ends: Option<[u64; OUTPUTS]>,
    /// Home was told over this link that the last process has gone.
    pub gone_told: bool,
}

impl Guest {
    /// Tells home; a broken link is noticed by its reader.
    pub fn tell_home(&self, message: &ToHome) {
        if let Some(link) = &self.link {
            let _ = link.send(message);
        }
    }

    /// Sends the job's output over this link from where home stands.
    pub fn route_output(&self, received: &[u64], link: &Sender) {
        for (index, output) in self.outputs.iter().enumerate() {
            let (Some(output), Ok(stream)) = (output, u8::try_from(index)) else { continue };
            let link = link.clone();
            let send: SendOutput = Arc::new(move |offset, bytes| {
                bytes.is_empty()
                    || link.send(&ToHome::Output { stream, offset, data: Bytes(bytes.to_vec()) }).is_ok()
            });
            output.attach(received.get(index).copied().unwrap_or_default(), send);
        }
    }

    /// Input that this node has received.
    #[must_use]
    pub fn input_received(&self) -> [u64; INPUTS] {
        std::array::from_fn(|index| self.inputs[index].as_ref().map_or(0, AwayInput::received))
    }

    /// The job is frozen and may leave: what it would take along.
    #[must_use]
    pub fn suspend(&self) -> ([InputState; INPUTS], [OutputState; OUTPUTS]) {
        (
            std::array::from_fn(|index| {
                self.inputs[index].as_ref().map(AwayInput::suspend).unwrap_or_default()
            }),
            std::array::from_fn(|index| {
                self.outputs[index].as_ref().map(AwayOutput::suspend).unwrap_or_default()
            }),
        )
    }

    /// The job runs here.
    pub fn resume(&self) {
        self.inputs.iter().flatten().for_each(AwayInput::resume);
        self.outputs.iter().flatten().for_each(AwayOutput::resume);
    }

    /// Takes a piece of a stream from home.
    pub fn stream(&self, message: &FromHome) {
        let input = |index: u8| self.inputs.get(usize::from(index)).and_then(Option::as_ref);
        let output = |index: u8| self.outputs.get(usize::from(index)).and_then(Option::as_ref);
        match message {
            FromHome::Input { stream, offset, data } => {
                if let Some(Err(error)) = input(*stream).map(|input| input.push(*offset, &data.0)) {
                    log::error!("input from home is lost: {error}");
                }
            }
            FromHome::InputEnd(stream, offset) => {
                if let Some(input) = input(*stream) {
                    input.end(*offset);
                }
            }
            FromHome::OutputTaken(stream, offset) => {
                if let Some(output) = output(*stream) {
                    output.acknowledge(*offset);
                }
            }
            FromHome::OutputClosed(stream) => {
                if let Some(output) = output(*stream) {
                    output.close();
                }
            }
            _ => {}
        }
    }

    /// Whether home has got everything that the job ever wrote.
    #[must_use]
    pub fn flushed(&self) -> bool {
        self.ends.is_some_and(|ends| {
            (0..OUTPUTS).all(|index| {
                self.outputs[index]
                    .as_ref()
                    .is_none_or(|output| output.closed() || output.acknowledged() >= ends[index])
            })
        })
    }

    /// Ends the threads of the streams and the mount.
    pub fn finish(&mut self) {
        self.inputs.iter_mut().filter_map(Option::take).for_each(|input| input.finish());
        self.outputs.iter_mut().filter_map(Option::take).for_each(|output| output.finish());
        if let Some(files) = self.files.take() {
            files.close();
        }
        if let Some(link) = self.link.take() {
            link.close();
        }
    }
}
