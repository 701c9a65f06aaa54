// Labels one image with a bundle's model.engine in TensorRT 10 or 11, on the machine that the engine was built on.
//
//     classify_tensorrt BUNDLE IMAGE.ppm [TOP]

#include "bundle.hpp"

#include <map>
#include <memory>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

namespace {

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << "TensorRT: " << bundle::printable(message) << "\n";
    }
};

void check(cudaError_t status) { bundle::require(status == cudaSuccess, cudaGetErrorString(status)); }

// Memory of the GPU.
class DeviceBuffer {
public:
    explicit DeviceBuffer(std::size_t bytes) { check(cudaMalloc(&memory_, bytes)); }
    ~DeviceBuffer() { cudaFree(memory_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    void* get() const { return memory_; }

private:
    void* memory_ = nullptr;
};

std::size_t bytes_of(const nvinfer1::Dims& shape, nvinfer1::DataType type) {
    bundle::require(type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kUINT8,
                    "a tensor of the engine is neither float32 nor uint8");
    std::size_t count = type == nvinfer1::DataType::kFLOAT ? sizeof(float) : 1;
    for (int i = 0; i < shape.nbDims; ++i) {
        bundle::require(shape.d[i] > 0, "a tensor of the engine has an open size");
        count *= static_cast<std::size_t>(shape.d[i]);
    }
    return count;
}

// The bytes of model.engine.
std::string plan_of(const bundle::Model& model) {
    bundle::require(model.record.contains("engine"), "the bundle has no TensorRT engine");
    const std::filesystem::path file = model.folder / "model.engine";
    std::ifstream opened(file, std::ios::binary);
    bundle::require(std::filesystem::is_regular_file(file) && opened, file.string() + ": is missing, or cannot be read");
    return {std::istreambuf_iterator<char>(opened), {}};
}

// Why an engine may not load, and what to do.
std::string advice(const bundle::Json& record) {
    const bundle::Json& bound_to = record.at("engine").at("bound_to");
    return "the engine cannot be loaded: it was built on '" + bound_to.at("name").get<std::string>() +
           "' with TensorRT " + bound_to.at("versions").at("tensorrt").get<std::string>() + "; here is " +
           std::to_string(getInferLibVersion()) + ". README.md has the command that builds it on this machine";
}

std::vector<float> infer(const bundle::Model& model, const bundle::Bytes& pixels) {
    const std::string plan = plan_of(model);
    Logger logger;
    const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    bundle::require(runtime != nullptr, "TensorRT has no runtime here");
    const bundle::Json& options = model.record.at("engine").at("session_options");
    if (options.value("version_compatible", false)) runtime->setEngineHostCodeAllowed(true);
    const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (engine == nullptr) throw std::runtime_error(advice(model.record));
    const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    bundle::require(context != nullptr, "the GPU has not enough memory for the engine");

    nvinfer1::Dims shape{};
    shape.nbDims = static_cast<int>(model.shape.size());
    std::copy(model.shape.begin(), model.shape.end(), shape.d);
    bundle::require(context->setInputShape(model.input.c_str(), shape), "the engine does not take this input shape");

    std::map<std::string, std::unique_ptr<DeviceBuffer>> buffers;
    for (int i = 0; i < engine->getNbIOTensors(); ++i) {
        const char* name = engine->getIOTensorName(i);
        buffers[name] = std::make_unique<DeviceBuffer>(
            bytes_of(context->getTensorShape(name), engine->getTensorDataType(name)));
        bundle::require(context->setTensorAddress(name, buffers[name]->get()), "a tensor has no place");
    }
    bundle::require(buffers.count(model.input) && buffers.count(model.output), "the engine has other tensors");
    bundle::require(engine->getTensorDataType(model.output.c_str()) == nvinfer1::DataType::kFLOAT,
                    "the engine's output is not float32");

    const bundle::Bytes bytes = bundle::repeated(pixels, model);
    const std::vector<float> values = bundle::repeated(bundle::normalized(pixels, model), model);
    const void* host = model.takes_uint8 ? static_cast<const void*>(bytes.data()) : values.data();
    const std::size_t size = model.takes_uint8 ? bytes.size() : values.size() * sizeof(float);
    bundle::require(bytes_of(shape, engine->getTensorDataType(model.input.c_str())) == size,
                    "the engine's input has another type");
    const nvinfer1::Dims result = context->getTensorShape(model.output.c_str());
    std::vector<float> scores(bytes_of(result, nvinfer1::DataType::kFLOAT) / sizeof(float));
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream));
    check(cudaMemcpyAsync(buffers[model.input]->get(), host, size, cudaMemcpyHostToDevice, stream));
    bundle::require(context->enqueueV3(stream), "the engine does not run");
    check(cudaMemcpyAsync(scores.data(), buffers[model.output]->get(), scores.size() * sizeof(float),
                          cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    check(cudaStreamDestroy(stream));
    scores.resize(scores.size() / static_cast<std::size_t>(model.shape[0]));
    return scores;
}

}  // namespace

int main(int count, char** arguments) { return bundle::run(count, arguments, infer); }
