// Tensors say cuda:0, lie in host memory, and are computed by the CPU's kernels.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>
#include <optional>
#include <set>

using namespace at;

// --- one CUDA device as PyTorch's core sees it: a guard with no device to switch to, and the hooks of a CUDA build ---

namespace {

const Device DEVICE(kCUDA, 0);
const Stream STREAM(Stream::DEFAULT, DEVICE);

// The device of a generator, a private field of GeneratorImpl: the pretend device's generator is a CPU generator that
// says cuda:0.
Device& generator_device(const Generator& generator) {
  struct Open : c10::GeneratorImpl {
    static Device& device(c10::GeneratorImpl& impl) { return impl.*(&Open::device_); }
  };
  return Open::device(*generator.unsafeGetGeneratorImpl());
}

struct PretendGuard final : c10::impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = kCUDA;
  DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return STREAM; }
  Stream getNewStream(Device, int = 0) const override { return STREAM; }
  Stream exchangeStream(Stream) const override { return STREAM; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

// Host memory that knows whether it was requested as pinned.
struct PinnedMemory final : Allocator {
  static inline std::mutex mutex;
  static inline std::set<const void*> blocks;

  static void release(void* block) {
    { std::lock_guard lock(mutex); blocks.erase(block); }
    free_cpu(block);
  }
  DataPtr allocate(size_t bytes) override {
    void* block = bytes ? alloc_cpu(bytes) : nullptr;
    if (block) { std::lock_guard lock(mutex); blocks.insert(block); }
    return {block, block, &release, Device(kCPU)};
  }
  DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

PinnedMemory pinned_memory;

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, PretendGuard)

namespace at {

struct PretendHooks final : CUDAHooksInterface {
  PretendHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {}
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* block) const override {
    std::lock_guard lock(PinnedMemory::mutex);
    return PinnedMemory::blocks.count(block) > 0;
  }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return detail::getDefaultCPUGenerator(); }
  Generator getNewGenerator(DeviceIndex) const override {
    Generator generator = detail::createCPUGenerator();
    generator_device(generator) = DEVICE;
    return generator;
  }
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, PretendHooks)

}  // namespace at

namespace pretend {

// --- memory -----------------------------------------------------------------------------------------------

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes ? c10::alloc_cpu(bytes) : nullptr;
    if (block) std::memset(block, 0xff, bytes);  // NaN in every floating type: values never written show
    return {block, block, &c10::free_cpu, Device(kCUDA, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

Memory memory;
const c10::DispatchKeySet KEYS(c10::DispatchKey::CUDA);

Tensor empty(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS, dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<ScalarType> dtype, std::optional<Layout>,
                     std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, dtype_or_default(dtype));
}

// The same memory as a CPU tensor.
Tensor on_host(const Tensor& tensor) {
  if (!tensor.is_cuda()) return tensor;
  void* data = const_cast<void*>(tensor.const_data_ptr());
  auto options = tensor.options().device(kCPU).requires_grad(false);
  Tensor host = at::from_blob(data, tensor.sizes(), tensor.strides(), options);
  host._set_conj(tensor.is_conj());
  host._set_neg(tensor.is_neg());
  return host;
}

// --- copies -----------------------------------------------------------------------------------------------

Tensor& copy_(Tensor& to, const Tensor& from, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

Scalar local_scalar_dense(const Tensor& tensor) { return at::_local_scalar_dense(on_host(tensor)); }

Tensor as_strided(const Tensor& tensor, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, size, stride, offset);
}

// --- everything else --------------------------------------------------------------------------------------

// Raises as CUDA does: beside CUDA tensors, a CPU tensor of one dimension or more may only be an index.
void check_devices(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> args) {
  bool cuda = false, cpu = false;
  auto look = [&](const Tensor& tensor) {
    if (tensor.defined()) (tensor.is_cuda() ? cuda : cpu) |= tensor.is_cuda() || tensor.dim() > 0;
  };
  for (const c10::IValue& arg : args) {
    if (arg.isTensor()) {
      look(arg.toTensor());
    } else if (arg.isTensorList()) {
      for (const Tensor& tensor : arg.toTensorList()) look(tensor);
    } else if (arg.isList()) {  // Tensor?[]: indices
      for (const c10::IValue& item : arg.toListRef()) cuda |= item.isTensor() && item.toTensor().is_cuda();
    }
  }
  TORCH_CHECK(!(cuda && cpu), "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
              "cpu! (pretend CUDA device, ", op.operator_name(), ")");
}

// A generator of the device, while the CPU's kernels use it.
struct CpuGenerator {
  Generator generator;
  explicit CpuGenerator(const Generator& given) : generator(given) {
    TORCH_CHECK(given.device().is_cuda(), "Expected a 'cuda' device type for generator but found 'cpu'");
    generator_device(generator) = Device(kCPU);
  }
  ~CpuGenerator() { generator_device(generator) = Device(kCUDA, 0); }
};

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  auto args = torch::jit::last(*stack, op.schema().arguments().size());
  check_devices(op, args);
  std::optional<CpuGenerator> generator;
  for (const c10::IValue& arg : args) {
    if (arg.isGenerator()) generator.emplace(arg.toGenerator());
  }
  at::native::cpu_fallback(op, stack);
}

}  // namespace pretend

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&pretend::by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", TORCH_FN(pretend::empty));
  m.impl("empty_strided", TORCH_FN(pretend::empty_strided));
  m.impl("copy_", TORCH_FN(pretend::copy_));
  m.impl("_copy_from", TORCH_FN(pretend::copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(pretend::copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(pretend::local_scalar_dense));
  m.impl("resize_", TORCH_FN(at::native::resize_));
  m.impl("set_.source_Storage", TORCH_FN(at::native::set_));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  m.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  // views: the fallback would copy them
  m.impl("as_strided", TORCH_FN(pretend::as_strided));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  m.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
}
