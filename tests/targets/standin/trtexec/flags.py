"""The flags of trtexec by version.

They are read from NVIDIA's samples/common/sampleOptions.cpp, tags v10.3.0, v10.13.3, v10.16 and v11.1. The source of
11.4 is not public: 11.1 stands for it.
"""

from __future__ import annotations

_OF_10_3 = """
--allocationStrategy --allowGPUFallback --allowWeightStreaming --avgRuns --avgTiming --best --bf16
--buildDLAStandalone --builderOptimizationLevel --calib --calibProfile --consistency --device --directIO
--dumpLayerInfo --dumpOptimizationProfile --dumpOutput --dumpProfile --dumpRawBindingsToFile --dumpRefit
--duration --dynamicPlugins --errorOnTimingCacheMiss --excludeLeanRuntime --exportLayerInfo --exportOutput
--exportProfile --exportTimes --exposeDMA --fp16 --fp8 --getPlanVersionOnly --hardwareCompatibilityLevel
--idleTime --ignoreParsedPluginLibs --infStreams --inputIOFormats --int4 --int8 --iterations
--layerDeviceTypes --layerOutputTypes --layerPrecisions --leanDLLPath --loadEngine --loadInputs --markDebug
--maxAuxStreams --maxShapes --maxShapesCalib --memPoolSize --minShapes --minShapesCalib --noBuilderCache
--noCompilationCache --noDataTransfers --noTF32 --onnx --optShapes --optShapesCalib --outputIOFormats
--percentile --persistentCacheRatio --pi --pluginInstanceNorm --plugins --precisionConstraints --preview
--profile --profilingVerbosity --refit --restricted --runtimePlatform --safe --saveDebugTensors --saveEngine
--separateProfileRun --setPluginsToSerialize --shapes --skipInference --sleepTime --sparsity --staticPlugins
--streams --stripAllWeights --stripWeights --stronglyTyped --tacticSources --tempdir --tempfileControls
--threads --timeDeserialize --timeRefit --timingCacheFile --useCudaGraph --useDLACore --useManagedMemory
--useProfile --useRuntime --useSpinWait --vc --verbose --versionCompatible --warmUp --weightStreamingBudget
--weightless
"""
_NEW_IN_10_13 = """
--asyncFileReader --distributiveIndependence --dumpKernelText --l2LimitForTiling
--markUnfusedTensorsAsDebugTensors --maxTactics --monitorMemory --remoteAutoTuningConfig --safetyPlugins
--saveAllDebugTensors --tilingOptimizationLevel --uint8AsymmetricQuantizationDLA
"""
_NEW_IN_10_16 = """
--adjustForDLA --cpuOnly --decomposableAttentions --enablePluginOverride --refitFromOnnx
--reportCapabilityDLA
"""
_NEW_IN_11 = """
--accuracyAlgorithm --accuracyThreshold --atol --continue --dryRun --helpBuildRoute --includeDataTransfers
--loadRefOutputs --noCudaGraph --noSpinWait --refPair --rtol --saveAllEngines --setBuildRoute
--tuneBuildRouteFile --tuneBuildRoutes --tuningCacheFile --tuningResultFile --tuningSearch --tuningTimeOut
"""
_GONE_IN_11 = """
--best --bf16 --calib --calibProfile --fp16 --fp8 --int4 --int8 --layerOutputTypes --layerPrecisions
--maxShapesCalib --minShapesCalib --optShapesCalib --precisionConstraints --restricted --weightless
"""


def flags_of(version: tuple[int, ...]) -> set[str]:
    """The flags that a version knows, with their dashes."""
    known = set(_OF_10_3.split())
    if version >= (10, 13):
        known |= set(_NEW_IN_10_13.split())
    if version >= (10, 16):
        known |= set(_NEW_IN_10_16.split())
    return (known | set(_NEW_IN_11.split())) - set(_GONE_IN_11.split()) if version >= (11,) else known
