# The CUDA plug-in: a module of its own behind kernels/cuda/table.h, so that
# nothing else needs CUDA to build or to run.
set(SHOAL_CUDA AUTO CACHE STRING
    "The CUDA plug-in: AUTO (where there is nvcc), ON or OFF")
set_property(CACHE SHOAL_CUDA PROPERTY STRINGS AUTO ON OFF)

# A macro: languages are enabled at the top.
macro(shoal_cuda_language)
  set(SHOAL_HAS_CUDA OFF)
  if(SHOAL_SANITIZE AND SHOAL_CUDA STREQUAL "AUTO")
    # The sanitizers see nothing of a GPU; the stand-in shows them the sources.
  elseif(SHOAL_CUDA)
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(SHOAL_HAS_CUDA ON)
    elseif(NOT SHOAL_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "SHOAL_CUDA is ${SHOAL_CUDA} and nvcc was not found; "
                          "set CMAKE_CUDA_COMPILER or SHOAL_CUDA=OFF")
    endif()
  endif()
  if(SHOAL_HAS_CUDA)
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80 90)
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc does C++20.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    if(SHOAL_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${SHOAL_CCACHE})
    endif()
    find_package(CUDAToolkit REQUIRED)
  endif()
endmacro()

# shoal_cuda_plugin(folder): all .cu files of the folder.
function(shoal_cuda_plugin folder)
  if(NOT SHOAL_HAS_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cu)
  add_library(shoal_cuda MODULE ${sources})
  # Bits as on the CPU: no fused multiply-adds but those that are written, and
  # IEEE divisions and subnormals, which are nvcc's defaults.
  set_target_properties(
    shoal_cuda
    PROPERTIES CUDA_STANDARD 20
               CUDA_RUNTIME_LIBRARY Shared
               CUDA_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               COMPILE_OPTIONS
               "-fmad=false;-Werror;all-warnings;-Xcompiler;-Wall,-Wextra,-Wno-missing-field-initializers"
  )
  target_link_libraries(shoal_cuda PRIVATE CUDA::cublasLt)
endfunction()

# The tests of the plug-in: tests/cuda, with few libraries, so that the program
# is easily carried to a machine with a GPU. They load the stand-in that g++
# makes of the plug-in's sources unless SHOAL_CUDA_PLUGIN names a real one.
function(shoal_cuda_tests)
  cmake_parse_arguments(arg "" "" "USES" ${ARGN})
  add_subdirectory(tests/cuda/shim)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda/*.cc)
  shoal_link_of(link ${arg_USES})
  shoal_test_program(cuda_tests SOURCES ${sources}
                     LINK ${link} shoal_cuda_fibers ${CMAKE_DL_LIBS})
  add_dependencies(cuda_tests shoal_cuda_shim)
  target_compile_definitions(
    cuda_tests PRIVATE SHOAL_CUDA_SHIM="$<TARGET_FILE:shoal_cuda_shim>")
endfunction()
