//! Which memory models are budgeted in, what is left of it, and what processes hold of it.

use std::{collections::BTreeMap, fmt, iter::Sum, path::Path, sync::Arc};

use crate::{
    MachineMemory,
    engine::{self, Held, own_bytes, share},
    machine,
};

/// Which memory models are budgeted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOf {
    Machine,
    /// That of all devices that CUDA shows, together.
    Cuda,
}

impl MemoryOf {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Cuda => "cuda",
        }
    }
}

/// The memory of GPUs, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceMemory {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// What processes hold, by their ids, as far as the driver tells.
    pub held_bytes: BTreeMap<u32, u64>,
    /// As in [`MachineMemory`]: GPUs don't stall, but the machine that feeds them does.
    pub stalled_percent: Option<f32>,
}

impl Sum for DeviceMemory {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), |mut together, device| {
            together.total_bytes += device.total_bytes;
            together.free_bytes += device.free_bytes;
            for (pid, bytes) in device.held_bytes {
                *together.held_bytes.entry(pid).or_default() += bytes;
            }
            together.stalled_percent = together.stalled_percent.or(device.stalled_percent);
            together
        })
    }
}

/// Reads the memory that models are budgeted in.
#[derive(Clone)]
pub struct MemoryReader(Source);

#[derive(Clone)]
enum Source {
    Machine(Arc<dyn Fn() -> Option<MachineMemory> + Send + Sync>),
    Devices(Arc<dyn Fn() -> Option<DeviceMemory> + Send + Sync>),
}

impl MemoryReader {
    /// The machine's memory as `read` tells it: `None` where the system doesn't.
    pub fn new(read: impl Fn() -> Option<MachineMemory> + Send + Sync + 'static) -> Self {
        Self(Source::Machine(Arc::new(read)))
    }

    /// This machine, as Linux describes it below `/proc`; elsewhere nothing is told.
    pub fn of_this_machine() -> Self {
        Self::new(machine::read)
    }

    /// The memory of CUDA's devices as `read` tells it: `None` where they can't be asked.
    pub fn of_devices(read: impl Fn() -> Option<DeviceMemory> + Send + Sync + 'static) -> Self {
        Self(Source::Devices(Arc::new(read)))
    }

    pub fn memory_of(&self) -> MemoryOf {
        match &self.0 {
            Source::Machine(_) => MemoryOf::Machine,
            Source::Devices(_) => MemoryOf::Cuda,
        }
    }

    /// How much there is of it, and how much is left. `None` where nobody tells.
    pub fn read(&self) -> Option<MachineMemory> {
        match &self.0 {
            Source::Machine(read) => read(),
            Source::Devices(read) => read().map(|devices| left(&devices)),
        }
    }

    /// What is left, and the bytes that engines hold together, each of them given by its process and by what it is charged with.
    pub(crate) fn look(&self, engines: &[(u32, u64)]) -> Option<(MachineMemory, u64)> {
        match &self.0 {
            Source::Machine(read) => {
                let memory = read()?;
                let held = engines.iter().filter_map(|(pid, _)| own_bytes(*pid)).sum();
                Some((memory, held))
            }
            Source::Devices(read) => {
                let devices = read()?;
                // One that isn't listed counts with its charge, so that the two cancel out: it may hold nothing on a device,
                // and then leaves no less for others; or its process may be hidden, and then it holds what was predicted.
                let held = |&(pid, charged)| share(pid, &devices.held_bytes).unwrap_or(charged);
                let held = engines.iter().map(held).sum();
                Some((left(&devices), held))
            }
        }
    }

    /// What the process of a model holds, in bytes; `None` where that can't be told: then the prediction stands.
    pub(crate) fn measure(&self, pid: u32, model: &Path, predicted: u64) -> Option<Held> {
        let Source::Devices(read) = &self.0 else {
            return engine::measure(pid, model, predicted);
        };
        let own = match share(pid, &read()?.held_bytes) {
            Some(own) => own,
            // It computes on the processor, or drivers don't see into this container: never less than was predicted, as the
            // most of it may lie on a device after all.
            None => {
                let Held { own, mapped } = engine::measure(pid, model, predicted)?;
                predicted.max(own + mapped)
            }
        };
        // Each process has its own copy of the weights on a device.
        Some(Held { own, mapped: 0 })
    }
}

impl fmt::Debug for MemoryReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryReader({})", self.memory_of().as_str())
    }
}

fn left(devices: &DeviceMemory) -> MachineMemory {
    MachineMemory {
        total_bytes: devices.total_bytes,
        available_bytes: devices.free_bytes,
        stalled_percent: devices.stalled_percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(held_bytes: &[(u32, u64)]) -> DeviceMemory {
        DeviceMemory {
            total_bytes: 1000,
            free_bytes: 400,
            held_bytes: held_bytes.iter().copied().collect(),
            stalled_percent: None,
        }
    }

    #[test]
    fn devices_add_up() {
        let devices = [device(&[(1, 300), (2, 10)]), device(&[(1, 200)])];
        let together: DeviceMemory = devices.into_iter().sum();
        assert_eq!((together.total_bytes, together.free_bytes), (2000, 800));
        assert_eq!(together.held_bytes, BTreeMap::from([(1, 500), (2, 10)]));
    }

    #[test]
    fn an_engine_that_devices_do_not_list_holds_its_charge() {
        let listed = std::process::id();
        let hidden = listed.wrapping_add(1);
        let reader = MemoryReader::of_devices(move || Some(device(&[(listed, 300)])));
        let (memory, held) = reader.look(&[(listed, 50), (hidden, 70)]).unwrap();
        assert_eq!((memory.available_bytes, held), (400, 370));
        assert!(
            MemoryReader::of_devices(|| None)
                .look(&[(listed, 50)])
                .is_none()
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_devices_do_not_list_is_never_less_than_predicted() {
        let (own, anywhere) = (std::process::id(), Path::new("/"));
        let measure = |held: &'static [(u32, u64)], predicted| {
            let reader = MemoryReader::of_devices(move || Some(device(held)));
            let held = reader.measure(own, anywhere, predicted).unwrap();
            assert_eq!(held.mapped, 0);
            held.own
        };
        assert_eq!(measure(&[], 1 << 60), 1 << 60);
        assert!(measure(&[], 0) > 100_000);
        let reader = MemoryReader::of_devices(move || Some(device(&[(own, 300)])));
        assert_eq!(reader.measure(own, anywhere, 1 << 60).unwrap().own, 300);
        assert!(
            MemoryReader::of_devices(|| None)
                .measure(own, anywhere, 5)
                .is_none()
        );
    }
}
