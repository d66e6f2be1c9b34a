//! Where tensors live: `auto`, `cpu` (burn's Flex), `ndarray` or `wgpu[:i]`.
//!
//! A device is always named; nothing in duet uses burn's default device.

use std::{fmt, str::FromStr, sync::OnceLock};

use burn::tensor::{Device, DeviceKind, DeviceType};
use duet_core::{Error, Result};

/// A device as the user writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first real GPU that wgpu finds, else the CPU.
    #[default]
    Auto,
    /// burn's Flex backend.
    Cpu,
    /// burn's ndarray backend: slower, kept as a second CPU implementation to test against.
    NdArray,
    /// wgpu (Vulkan, Metal, DX12): the `i`-th adapter of those [`wgpu_adapters`] lists.
    Wgpu(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "ndarray" => Ok(Self::NdArray),
            "wgpu" => Ok(Self::Wgpu(0)),
            _ => text
                .strip_prefix("wgpu:")
                .and_then(|index| index.parse().ok())
                .map(Self::Wgpu)
                .ok_or_else(|| Error::unknown("device", text, ["auto", "cpu", "ndarray", "wgpu", "wgpu:INDEX"])),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::NdArray => formatter.write_str("ndarray"),
            Self::Wgpu(index) => write!(formatter, "wgpu:{index}"),
        }
    }
}

/// A device that was opened.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// The burn device, without autodiff.
    pub device: Device,
    /// What was chosen; never [`DeviceChoice::Auto`].
    pub choice: DeviceChoice,
    /// For logs and records: "cpu (flex)", "wgpu:0 (NVIDIA ...)".
    pub description: String,
}

impl OpenDevice {
    /// Whether tensor memory is host memory, so that reading a tensor costs nothing.
    pub fn is_host(&self) -> bool {
        !matches!(self.choice, DeviceChoice::Wgpu(_))
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Input`] if wgpu finds no such adapter; the message lists what there is.
    pub fn open(self) -> Result<OpenDevice> {
        match self {
            Self::Cpu => {
                duet_core::memory::keep_freed();
                Ok(OpenDevice { device: Device::flex(), choice: self, description: "cpu (flex)".to_owned() })
            }
            Self::NdArray => Ok(OpenDevice { device: ndarray(), choice: self, description: "ndarray".to_owned() }),
            Self::Wgpu(index) => {
                let adapters = wgpu_adapters();
                let Some(adapter) = adapters.get(index) else {
                    return Err(Error::input(format!(
                        "no wgpu adapter {index}: {}. On a machine without a GPU use --device cpu, or install a software \
                         Vulkan driver (Debian: mesa-vulkan-drivers)",
                        match adapters.len() {
                            0 => "none was found".to_owned(),
                            count => format!("found {count}: {}", names(adapters)),
                        }
                    )));
                };
                Ok(OpenDevice {
                    device: adapter.device.clone(),
                    choice: self,
                    description: format!("wgpu:{index} ({})", adapter.name()),
                })
            }
            Self::Auto => match wgpu_adapters().iter().position(|adapter| !adapter.is_software) {
                Some(index) => Self::Wgpu(index).open(),
                None => Self::Cpu.open(),
            },
        }
    }
}

#[expect(deprecated, reason = "kept as the second CPU implementation; burn 0.22 deprecates it in favour of Flex")]
fn ndarray() -> Device {
    Device::ndarray()
}

fn names(adapters: &[WgpuAdapter]) -> String {
    adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| format!("wgpu:{index} {}", adapter.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// An adapter wgpu can open.
#[derive(Debug, Clone)]
pub struct WgpuAdapter {
    device: Device,
    /// Whether this is the CPU pretending (llvmpipe and its like): right answers, no speed.
    pub is_software: bool,
}

impl WgpuAdapter {
    /// The driver's name for it. Opens the device.
    pub fn name(&self) -> String {
        self.device.identity().map_or_else(|| "unnamed adapter".to_owned(), |identity| identity.name.to_string())
    }
}

/// Every adapter, real GPUs first; empty where there is no driver. Looked up once a process.
pub fn wgpu_adapters() -> &'static [WgpuAdapter] {
    static ADAPTERS: OnceLock<Vec<WgpuAdapter>> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        let software = Device::wgpu(DeviceKind::Cpu);
        let mut adapters: Vec<WgpuAdapter> = Device::enumerate(DeviceType::Wgpu)
            .into_vec()
            .into_iter()
            .map(|device| WgpuAdapter { is_software: device == software, device })
            .collect();
        adapters.sort_by_key(|adapter| adapter.is_software);
        adapters
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print_alike() {
        for name in ["auto", "cpu", "ndarray", "wgpu:0", "wgpu:3"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        let error = "cuda".parse::<DeviceChoice>().unwrap_err().to_string();
        assert!(error.contains("\"cuda\"") && error.contains("wgpu:INDEX"), "{error}");
    }

    #[test]
    fn a_missing_adapter_is_an_error_not_a_panic() {
        let error = DeviceChoice::Wgpu(999).open().unwrap_err().to_string();
        assert!(error.contains("no wgpu adapter 999"), "{error}");
    }
}
