//! A safetensors file, read tensor by tensor: the weights are in memory once, and only those that the model asks for.
//!
//! The format: eight bytes of little-endian length, a JSON table of that length with each tensor's type, shape and place, then
//! the tensors' bytes.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, var_builder::SimpleBackend};
use fusion_engine::types::Result;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fault::{invalid, unreadable};

/// A table above this is no table: the largest models' have some hundred kilobytes.
const LARGEST_TABLE: u64 = 100 << 20;

pub(crate) struct SafetensorsFile {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Entry>,
    /// Where the tensors' bytes begin.
    start: u64,
}

#[derive(Debug)]
struct Entry {
    dtype: DType,
    shape: Vec<usize>,
    /// Bytes from [`SafetensorsFile::start`].
    offset: u64,
    bytes: usize,
}

/// As the table has it.
#[derive(Deserialize)]
struct Row {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl SafetensorsFile {
    /// Reads the table, and checks it against the file's length.
    ///
    /// # Errors
    /// `invalid_value` naming the file where it is cut short or isn't such a file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let broken = |error: std::io::Error| unreadable(path, &error);
        let file = File::open(path).map_err(broken)?;
        let size = file.metadata().map_err(broken)?.len();
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(broken)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_TABLE {
            return Err(invalid(path, "this is no safetensors file"));
        }
        let mut table = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut table, 8).map_err(broken)?;
        let start = 8 + length;
        Ok(Self {
            tensors: entries(path, &table, size.saturating_sub(start))?,
            path: path.to_owned(),
            file,
            start,
        })
    }

    /// Numbers in all tensors together.
    pub(crate) fn elements(&self) -> u64 {
        self.tensors
            .values()
            .map(|entry| (entry.bytes / entry.dtype.size_in_bytes()) as u64)
            .sum()
    }

    /// What most of the weights are stored as.
    pub(crate) fn stored_as(&self) -> &'static str {
        let largest = self.tensors.values().max_by_key(|entry| entry.bytes);
        largest.map_or(DType::F32, |entry| entry.dtype).as_str()
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(entry) = self.tensors.get(name) else {
            candle_core::bail!("it has no tensor {name:?}");
        };
        let mut bytes = vec![0; entry.bytes];
        self.file
            .read_exact_at(&mut bytes, self.start + entry.offset)
            .map_err(|error| candle_core::Error::msg(unreadable(&self.path, &error)))?;
        Tensor::from_raw_buffer(&bytes, entry.dtype, &entry.shape, device)?.to_dtype(dtype)
    }
}

impl SimpleBackend for SafetensorsFile {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.tensors.get(name) {
            Some(entry) if entry.shape != shape.dims() => candle_core::bail!(
                "the tensor {name:?} has the shape {:?}, config.json means {:?}",
                entry.shape,
                shape.dims()
            ),
            _ => self.read(name, dtype, device),
        }
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

fn entries(path: &Path, table: &[u8], available: u64) -> Result<BTreeMap<String, Entry>> {
    let table: Map<String, Value> = serde_json::from_slice(table)
        .map_err(|error| invalid(path, format_args!("this is no safetensors file: {error}")))?;
    let tensors = table.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors
        .map(|(name, row)| {
            let entry = entry(row, available)
                .map_err(|what| invalid(path, format_args!("the tensor {name:?}: {what}")))?;
            Ok((name, entry))
        })
        .collect()
}

fn entry(row: Value, available: u64) -> Result<Entry, String> {
    let Row {
        dtype,
        shape,
        data_offsets: (begin, end),
    } = serde_json::from_value(row).map_err(|error| error.to_string())?;
    if end > available {
        return Err("the file is cut short".to_owned());
    }
    let dtype = match dtype.as_str() {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "F64" => DType::F64,
        "I64" => DType::I64,
        "I32" => DType::I32,
        "U8" | "BOOL" => DType::U8,
        other => return Err(format!("the type {other} is not read")),
    };
    let elements = shape
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size));
    let bytes = elements.and_then(|elements| elements.checked_mul(dtype.size_in_bytes()));
    match bytes {
        Some(bytes) if begin.checked_add(bytes as u64) == Some(end) => Ok(Entry {
            dtype,
            shape,
            offset: begin,
            bytes,
        }),
        _ => Err("its place in the file doesn't match its shape".to_owned()),
    }
}
