//! LoRA adapters: small changes to the weights, loaded beside a model and chosen by each request.

use fusion_engine::{
    Launch,
    types::{Error, Result, chat::AdapterScale, engine::Adapter},
};
use llama_cpp_4::{
    context::LlamaContext,
    model::{LlamaLoraAdapter, LlamaModel},
};
use llama_cpp_sys_4 as sys;
use sha2::{Digest, Sha256};

use crate::{gguf::Gguf, llama};

/// What a model is loaded with, known before it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapters {
    all: Vec<Adapter>,
    pub(crate) bytes: u64,
    fingerprints: Vec<String>,
}

/// Which adapters are applied, by number, and how strongly: in their order, and none of them with nothing. Requests with
/// different mixes never share a batch or a prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mix(Vec<(usize, f32)>);

impl Adapters {
    /// Reads the option `adapters` and the heads of its files.
    ///
    /// # Errors
    /// `invalid_value` for a file that can't be an adapter of this model.
    pub(crate) fn of(launch: &Launch, model: &Gguf) -> Result<Self> {
        let Some(json) = launch.option("adapters") else {
            return Ok(Self::default());
        };
        let all: Vec<Adapter> = serde_json::from_str(json)
            .map_err(|why| Error::invalid("adapters", format!("adapters: {why}")))?;
        let mut adapters = Self::default();
        for adapter in all {
            let file = Gguf::read(&adapter.path).map_err(|error| error.with_param("adapters"))?;
            if file.architecture != model.architecture {
                let why = format!(
                    "it is for models of architecture {}, and this one is {}",
                    file.architecture, model.architecture
                );
                return Err(unusable(&adapter, &why));
            }
            adapters.bytes += file.tensor_bytes;
            adapters.fingerprints.push(file.fingerprint()?);
            adapters.all.push(adapter);
        }
        Ok(adapters)
    }

    /// The model's fingerprint, with what the adapters make of it.
    pub(crate) fn fingerprint(&self, model: String) -> String {
        if self.all.is_empty() {
            return model;
        }
        let mut hash = Sha256::new();
        hash.update(model);
        for (adapter, fingerprint) in self.all.iter().zip(&self.fingerprints) {
            hash.update(fingerprint);
            hash.update(adapter.scale.to_le_bytes());
        }
        let bytes = hash.finalize();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a request asks for; without a wish, everything as it was loaded.
    ///
    /// # Errors
    /// `invalid_value` for a name that no adapter has.
    pub(crate) fn mix(&self, wanted: Option<&[AdapterScale]>) -> Result<Mix> {
        let mut mix: Vec<(usize, f32)> = match wanted {
            None => (0..).zip(self.all.iter().map(|it| it.scale)).collect(),
            Some(wanted) => {
                let chosen = wanted
                    .iter()
                    .map(|it| Ok((self.number(&it.name)?, it.scale)));
                chosen.collect::<Result<_>>()?
            }
        };
        mix.retain(|&(_, scale)| scale != 0.0);
        mix.sort_by_key(|&(number, _)| number);
        Ok(Mix(mix))
    }

    fn number(&self, name: &str) -> Result<usize> {
        let number = self.all.iter().position(|adapter| adapter.name == name);
        number.ok_or_else(|| {
            let names: Vec<&str> = self.all.iter().map(|it| it.name.as_str()).collect();
            let has = if names.is_empty() {
                "it was loaded with none".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            let message = format!("adapters: the model has no adapter {name:?}; {has}");
            Error::invalid("adapters", message)
        })
    }
}

/// The adapters themselves, owned by the thread that computes.
pub(crate) struct LoadedAdapters {
    handles: Vec<LlamaLoraAdapter>,
    applied: Mix,
}

impl LoadedAdapters {
    /// Must be done before the model's context is made: it is made large enough for them.
    ///
    /// # Errors
    /// `invalid_value` for an adapter that doesn't fit the model.
    pub(crate) fn load(model: &LlamaModel, adapters: &Adapters) -> Result<Self> {
        let load = |adapter: &Adapter| {
            let handle = llama::attempt(|| model.lora_adapter_init(&adapter.path))
                .map_err(|why| unusable(adapter, &why))?;
            if handle.n_invocation_tokens() > 0 {
                let why = "it wants to be applied from certain tokens on, which isn't supported";
                return Err(unusable(adapter, why));
            }
            Ok(handle)
        };
        Ok(Self {
            handles: adapters.all.iter().map(load).collect::<Result<_>>()?,
            applied: Mix::default(),
        })
    }

    /// From the next batch on these are applied, and no others.
    pub(crate) fn apply(&mut self, context: &LlamaContext, mix: &Mix) -> Result<(), String> {
        if self.applied == *mix {
            return Ok(());
        }
        set(context, &self.handles, mix)?;
        self.applied = mix.clone();
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the wrapper sets one adapter at a time only")]
fn set(context: &LlamaContext, handles: &[LlamaLoraAdapter], mix: &Mix) -> Result<(), String> {
    let raw = raw(context).ok_or("the context has no address")?;
    let pointer = |&(number, _): &(usize, f32)| {
        // SAFETY: the wrapper is `repr(transparent)` over its pointer, which stays with the wrapper.
        unsafe {
            std::mem::transmute_copy::<LlamaLoraAdapter, *mut sys::llama_adapter_lora>(
                &handles[number],
            )
        }
    };
    let mut pointers: Vec<_> = mix.0.iter().map(pointer).collect();
    let mut scales: Vec<f32> = mix.0.iter().map(|&(_, scale)| scale).collect();
    // SAFETY: the context lives as long as its borrow and is used by this thread alone; both arrays have the length given, and
    // llama.cpp copies them. The adapters are of the context's model, and live as long as the context is used.
    let code = unsafe {
        sys::llama_set_adapters_lora(
            raw,
            pointers.as_mut_ptr(),
            pointers.len(),
            scales.as_mut_ptr(),
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(format!("the adapters can't be applied: {code}"))
    }
}

/// llama.cpp's own handle of a context: the wrapper keeps it to itself, but shows it.
fn raw(context: &LlamaContext) -> Option<*mut sys::llama_context> {
    let shown = format!("{context:?}");
    let (_, address) = shown.split_once("0x")?;
    let digits = address
        .split(|digit: char| !digit.is_ascii_hexdigit())
        .next()?;
    let address = usize::from_str_radix(digits, 16).ok()?;
    (address != 0).then(|| std::ptr::with_exposed_provenance_mut(address))
}

fn unusable(adapter: &Adapter, why: &str) -> Error {
    let message = format!("the adapter {:?} can't be used: {why}", adapter.name);
    Error::invalid("adapters", message)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn adapters() -> Adapters {
        let adapter = |(name, scale): (&str, f32)| Adapter {
            name: name.to_owned(),
            path: PathBuf::new(),
            scale,
        };
        Adapters {
            all: [("tone", 1.0), ("facts", 0.5)].map(adapter).to_vec(),
            ..Adapters::default()
        }
    }

    fn wanted(name: &str, scale: f32) -> AdapterScale {
        AdapterScale {
            name: name.to_owned(),
            scale,
        }
    }

    #[test]
    fn without_a_wish_all_are_applied_as_they_were_loaded() {
        assert_eq!(adapters().mix(None).unwrap(), Mix(vec![(0, 1.0), (1, 0.5)]));
    }

    #[test]
    fn a_wish_names_all_that_are_applied() {
        let mix = |wanted: &[AdapterScale]| adapters().mix(Some(wanted));
        assert_eq!(mix(&[]).unwrap(), Mix::default());
        assert_eq!(mix(&[wanted("tone", 0.0)]).unwrap(), Mix::default());
        let both = [wanted("facts", 2.0), wanted("tone", -1.0)];
        assert_eq!(mix(&both).unwrap(), Mix(vec![(0, -1.0), (1, 2.0)]));
        let error = mix(&[wanted("style", 1.0)]).unwrap_err();
        assert!(error.message.contains("tone, facts"), "{error}");
    }
}
