//! The memory of NVIDIA's GPUs, as NVML tells it, a library that comes with the driver.

use std::{collections::BTreeMap, env, ffi::OsString};

use nvml_wrapper::{Device, Nvml, enums::device::UsedGpuMemory, error::NvmlError};

use crate::{DeviceMemory, MemoryReader, machine, visible_devices::visible_devices};

const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// Of the server's environment these are left to engines: which devices are theirs, where CUDA's libraries lie, and where it
/// keeps kernels that it compiled as it ran.
const KEPT: [&str; 4] = [
    VISIBLE_DEVICES,
    "LD_LIBRARY_PATH",
    "CUDA_CACHE_PATH",
    "HOME",
];

/// What engines are told, so that they see the devices that are counted here. NVML numbers these in the order of the PCI bus,
/// while CUDA would begin with the quickest.
pub(crate) fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let kept = KEPT
        .into_iter()
        .filter_map(|name| Some((name, env::var_os(name)?)));
    kept.chain([("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into())])
}

impl MemoryReader {
    /// The devices that CUDA shows this process, looked for now. `None` where there are none or they can't be asked; the log has
    /// the reason.
    pub fn of_cuda_devices() -> Option<Self> {
        let found = Devices::visible().and_then(|devices| {
            let bytes = devices.memory()?.total_bytes;
            Ok((devices, bytes))
        });
        let why = match found {
            Ok((devices, 1..)) => return Some(Self::of_devices(move || devices.look())),
            Ok(_) => "none is visible".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            why,
            "no CUDA device; models are budgeted in the machine's memory"
        );
        None
    }
}

struct Devices {
    nvml: Nvml,
    uuids: Vec<String>,
}

impl Devices {
    fn visible() -> Result<Self, NvmlError> {
        let nvml = Nvml::init()?;
        // CUDA doesn't count a device either that this process may not use.
        let all: Vec<_> = (0..nvml.device_count()?)
            .filter_map(|index| nvml.device_by_index(index).ok()?.uuid().ok())
            .collect();
        let list = env::var_os(VISIBLE_DEVICES).map(|list| list.to_string_lossy().into_owned());
        let uuids = visible_devices(list.as_deref(), &all);
        Ok(Self { nvml, uuids })
    }

    fn look(&self) -> Option<DeviceMemory> {
        self.memory()
            .inspect_err(|error| tracing::debug!(%error, "a CUDA device can't be asked"))
            .ok()
    }

    fn memory(&self) -> Result<DeviceMemory, NvmlError> {
        let each = self
            .uuids
            .iter()
            .map(|uuid| memory(&self.nvml.device_by_uuid(uuid.as_str())?));
        Ok(DeviceMemory {
            stalled_percent: machine::stalled_percent(),
            ..each.sum::<Result<DeviceMemory, _>>()?
        })
    }
}

fn memory(device: &Device<'_>) -> Result<DeviceMemory, NvmlError> {
    let memory = device.memory_info()?;
    let mut held_bytes = BTreeMap::new();
    // Some drivers list nobody, and still tell what is free.
    for process in device.running_compute_processes().unwrap_or_default() {
        if let UsedGpuMemory::Used(bytes @ 1..) = process.used_gpu_memory {
            *held_bytes.entry(process.pid).or_default() += bytes;
        }
    }
    Ok(DeviceMemory {
        total_bytes: memory.total,
        free_bytes: memory.free,
        held_bytes,
        stalled_percent: None,
    })
}
