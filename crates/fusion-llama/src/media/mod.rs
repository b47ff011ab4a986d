//! Images and sound: from files of the server's to cells of a prompt, by way of the model's projector.
//!
//! Both are decoded here, by decoders that can't be harmed by what they read. `prompt` puts them into the places that the
//! template left for them; `encoder` has their vectors made on a thread of its own when the decode thread asks for them, so that
//! an image that the KV cache still holds is not encoded again.

mod encoder;
mod image;
mod names;
mod projector;
mod prompt;
mod sound;

pub(crate) use encoder::Encoding;
pub(crate) use projector::{Projector, ProjectorFile};
pub(crate) use prompt::{Seen, look, messages};
