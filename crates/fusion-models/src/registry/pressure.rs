//! The memory that models are budgeted in, looked at each second: the budget holds only as far as it is there.

use super::{Message, Registry, act::send};
use crate::{MachineMemory, scheduler::board::State};

/// One part in so many of the memory stays free for everything else, but never more than [`MOST_RESERVED`].
const RESERVED: u64 = 20;
const MOST_RESERVED: u64 = 1 << 30;
/// When programs wait for memory for so many percent of the time, nothing may grow.
const STALLED: f32 = 20.0;

impl Registry {
    /// Reads the memory, and what the engines themselves hold of it.
    pub(super) fn look_at_machine(&self) {
        let Some(reader) = self.services.config.memory.clone() else {
            return;
        };
        let running = self.entries.iter().filter_map(|(id, entry)| {
            let model = self.board.models.get(id)?;
            Some((entry.engine.as_ref()?.pid, model.state.bytes()))
        });
        let engines: Vec<_> = running.collect();
        let mailbox = self.mailbox.clone();
        self.children.spawn_blocking(move || {
            if let Some((memory, held)) = reader.look(&engines) {
                send(&mailbox, Message::Machine { memory, held });
            }
        });
    }

    pub(super) fn hear_of_machine(&mut self, memory: MachineMemory, held: u64) {
        let configured = self.services.config.budget_bytes;
        let mut budget = allowed(configured, memory, held, self.board.charged());
        // What a starting engine took already is charged, and not told apart from what others took.
        let starting = |state| matches!(state, State::Loading { .. });
        if self
            .board
            .models
            .values()
            .any(|model| starting(model.state))
        {
            budget = budget.max(self.board.limits.budget_bytes);
        }
        let is_short = budget < configured;
        if is_short != (self.board.limits.budget_bytes < configured) {
            let available = memory.available_bytes;
            tracing::info!(
                is_short,
                budget,
                available,
                "the memory that is left limits the budget"
            );
        }
        self.board.limits.budget_bytes = budget;
    }
}

/// The budget that the memory can carry: what is available beside what the engines hold, less a reserve.
///
/// Mapped weights count as available, as the system can drop them, and as charged: the two cancel out.
fn allowed(configured: u64, memory: MachineMemory, held: u64, charged: u64) -> u64 {
    let reserve = (memory.total_bytes / RESERVED).min(MOST_RESERVED);
    let room = memory
        .available_bytes
        .saturating_add(held)
        .saturating_sub(reserve);
    let stalled = memory
        .stalled_percent
        .is_some_and(|percent| percent >= STALLED);
    configured
        .min(room)
        .min(if stalled { charged } else { u64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_can_only_lower_the_budget() {
        let memory = |available_bytes, stalled| MachineMemory {
            total_bytes: 1000,
            available_bytes,
            stalled_percent: stalled,
        };
        assert_eq!(allowed(400, memory(900, None), 0, 0), 400);
        assert_eq!(allowed(400, memory(200, None), 100, 100), 250);
        assert_eq!(allowed(400, memory(40, None), 0, 0), 0);
        assert_eq!(allowed(400, memory(900, Some(19.0)), 100, 100), 400);
        assert_eq!(allowed(400, memory(900, Some(50.0)), 100, 100), 100);
    }
}
