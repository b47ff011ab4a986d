//! Guesses at the next tokens of a stream, for the model to check several in one step. A guess changes how fast an answer comes
//! and never what it says: every token is drawn from what the model itself makes of those before.

use llama_cpp_4::{
    context::{LlamaContext, MemoryBreakdownEntry},
    llama_batch::LlamaBatch,
    model::{LlamaModel, Special},
    token::LlamaToken,
};

use super::{cache::sequence, prefix::common_prefix};

/// With more streams in a batch than these, its own rows keep the processor busy and guesses only cost.
pub(crate) const MOST_STREAMS: usize = 2;

/// Who guesses.
pub(super) enum Draft<'model> {
    Nobody,
    /// What followed the last time the text had its last few tokens.
    Ngram,
    /// A smaller model of the same vocabulary.
    Model(DraftModel<'model>),
}

impl Draft<'_> {
    /// The tokens that may follow `tokens`, at most `most`.
    pub(super) fn propose(
        &mut self,
        slot: usize,
        tokens: &[LlamaToken],
        most: usize,
    ) -> Vec<LlamaToken> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Ngram => repetition(tokens, most),
            Self::Model(model) => model.propose(slot, tokens, most),
        }
    }

    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// What a draft model takes, by llama.cpp's account.
    pub(super) fn memory(&self) -> Vec<MemoryBreakdownEntry> {
        match self {
            Self::Model(model) => model.context.memory_breakdown(),
            _ => Vec::new(),
        }
    }

    pub(super) fn set_threads(&mut self, threads: i32) {
        if let Self::Model(model) = self {
            model.context.set_n_threads(threads, threads);
        }
    }
}

/// Tokens that must have been there before for what followed them to be worth a guess.
const PATTERN: usize = 3;

/// What followed the last few tokens when they were last in the text before.
fn repetition<T: Copy + PartialEq>(tokens: &[T], most: usize) -> Vec<T> {
    let Some(before) = tokens.len().checked_sub(PATTERN + 1) else {
        return Vec::new();
    };
    let pattern = &tokens[before + 1..];
    let found = (0..=before)
        .rev()
        .find(|&at| tokens[at..at + PATTERN] == *pattern);
    found.map_or_else(Vec::new, |at| {
        let follows = tokens[at + PATTERN..].iter().copied();
        follows.take(most).collect()
    })
}

pub(super) struct DraftModel<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch,
    /// What it has read of each slot.
    read: Vec<Vec<LlamaToken>>,
    least_probability: f32,
}

impl<'model> DraftModel<'model> {
    pub(super) fn new(context: LlamaContext<'model>, least_probability: f32) -> Self {
        Self {
            batch: LlamaBatch::new(context.n_batch() as usize, 1),
            read: vec![Vec::new(); context.n_seq_max() as usize],
            context,
            least_probability,
        }
    }

    fn propose(&mut self, slot: usize, tokens: &[LlamaToken], most: usize) -> Vec<LlamaToken> {
        let guesses = self.try_propose(slot, tokens, most);
        if guesses.is_none() {
            // Its cache is full, or it fell ill: it begins anew.
            self.context.clear_kv_cache();
            self.read.iter_mut().for_each(Vec::clear);
        }
        guesses.unwrap_or_default()
    }

    fn try_propose(
        &mut self,
        slot: usize,
        tokens: &[LlamaToken],
        most: usize,
    ) -> Option<Vec<LlamaToken>> {
        self.forget_what_differs(slot, tokens)?;
        let behind = &tokens[self.read[slot].len()..];
        let chunk = behind.len().min(self.context.n_batch() as usize);
        let all = chunk == behind.len();
        self.read_on(slot, &behind[..chunk])?;
        let mut guesses = Vec::new();
        // A long prompt is read over several steps, so that nobody waits for it long.
        while all && guesses.len() < most {
            let last = self.batch.n_tokens() - 1;
            let (token, probability) = likeliest(self.context.get_logits_ith(last))?;
            if probability < self.least_probability || self.context.model.is_eog_token(token) {
                break;
            }
            guesses.push(token);
            if guesses.len() < most {
                self.read_on(slot, &[token])?;
            }
        }
        Some(guesses)
    }

    /// Leaves of a slot what it has in common with these tokens, but for the last of them, which is read for its answer.
    fn forget_what_differs(&mut self, slot: usize, tokens: &[LlamaToken]) -> Option<()> {
        let read = &mut self.read[slot];
        let kept = common_prefix(read, tokens).min(tokens.len().checked_sub(1)?);
        if kept < read.len() {
            let (sequence, from) = (u32::try_from(slot).ok(), u32::try_from(kept).ok());
            let cut = self.context.clear_kv_cache_seq(sequence, from, None);
            cut.is_ok_and(|cut| cut).then_some(())?;
            read.truncate(kept);
        }
        Some(())
    }

    fn read_on(&mut self, slot: usize, tokens: &[LlamaToken]) -> Option<()> {
        self.batch.clear();
        for (index, &token) in tokens.iter().enumerate() {
            let position = i32::try_from(self.read[slot].len() + index).ok()?;
            let last = index + 1 == tokens.len();
            self.batch
                .add(token, position, &[sequence(slot)], last)
                .ok()?;
        }
        self.context.decode(&mut self.batch).ok()?;
        self.read[slot].extend_from_slice(tokens);
        Some(())
    }
}

/// The likeliest token, and its probability.
fn likeliest(logits: &[f32]) -> Option<(LlamaToken, f32)> {
    let best = (0..logits.len()).max_by(|&left, &right| logits[left].total_cmp(&logits[right]))?;
    let sum: f32 = logits
        .iter()
        .map(|logit| (logit - logits[best]).exp())
        .sum();
    Some((LlamaToken(i32::try_from(best).ok()?), 1.0 / sum))
}

/// Why a model can't guess for another one: every token must mean the same to both.
pub(crate) fn differs(draft: &LlamaModel, model: &LlamaModel) -> Option<String> {
    if draft.n_vocab() != model.n_vocab() {
        let (draft, model) = (draft.n_vocab(), model.n_vocab());
        return Some(format!(
            "its vocabulary has {draft} tokens, and the model's {model}"
        ));
    }
    let bytes = |of: &LlamaModel, token| {
        of.token_to_raw_bytes(token, Special::Tokenize)
            .unwrap_or_default()
    };
    (0..model.n_vocab())
        .map(LlamaToken)
        .find(|&token| {
            bytes(draft, token) != bytes(model, token)
                || draft.is_eog_token(token) != model.is_eog_token(token)
        })
        .map(|token| format!("its token {} is another one than the model's", token.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let text: Vec<u8> = b"one two three; one two".to_vec();
        assert_eq!(repetition(&text, 6), b" three");
        assert_eq!(repetition(b"abcabc", 9), b"abc");
        assert_eq!(repetition(b"abcdef", 9), b"");
        assert_eq!(repetition(b"ab", 9), b"");
    }

    #[test]
    fn the_likeliest_has_its_probability() {
        let (token, probability) = likeliest(&[0.0, 2.0_f32.ln(), 0.0]).unwrap();
        assert_eq!(token, LlamaToken(1));
        assert!((probability - 0.5).abs() < 1e-6);
        assert!(likeliest(&[]).is_none());
    }
}
